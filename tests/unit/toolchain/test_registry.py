"""The class registry: ids drawn once, labels gone for good, one line for what is wrong with it."""

import json
import os
from pathlib import Path

import pytest

from pfm_edge.config import load_config
from pfm_edge.errors import RegistryError, RunError
from pfm_edge.registry import KnownClass, PackageRecord, Registry, change_registry, read_registry
from pfm_edge.training import Run
from pfm_edge_runtime.manifest import ModelId

MODEL = ModelId("sha256:" + 64 * "a")
CONFIG = "data: {name: digits}\nbackbone: {model: vit_tiny_patch16_224}\n"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return load_config(path)


@pytest.fixture
def shared(tmp_path):
    return tmp_path / "registry.json"


@pytest.fixture
def sharing(tmp_path, shared):
    path = tmp_path / "shared.yaml"
    path.write_text(CONFIG + f"registry: {shared}\n")
    return load_config(path)


def ids(run):
    return dict(zip(run.labels, run.class_ids, strict=True))


class TestRegistry:
    def test_an_id_is_drawn_once(self):
        first = Registry().with_labels(["daisy", "rose"])
        again = first.with_labels(["rose", "tulip", "daisy"])
        assert again.classes[:2] == first.classes
        assert len({each.class_id for each in again.classes}) == 3

    def test_a_label_has_one_normal_form(self):
        registry = Registry().with_labels(["cafe\u0301"])
        assert registry.with_labels(["caf\u00e9"]) == registry
        assert registry.id_of("cafe\u0301") == registry.classes[0].class_id

    def test_what_was_forgotten_leaves_its_id_and_comes_back_as_another(self):
        registry = Registry().with_labels(["anna karenina", "rose"])
        gone = registry.classes[0].class_id
        after = registry.without([gone])
        assert b"karenina" not in after.to_bytes()
        assert after.forgotten == (gone,)
        assert after.without([gone]) == after
        again = after.with_labels(["anna karenina"])
        assert again.id_of("anna karenina") not in {None, gone}
        with pytest.raises(RegistryError, match="there twice, or forgotten and labelled"):
            after.with_classes([KnownClass(gone, "anna karenina")])

    def test_places_only_grow_and_a_path_is_noted_once(self):
        registry, place = Registry().with_export(PackageRecord(Path("/m"), MODEL))
        assert place == (1, 1)
        registry, place = registry.with_export(PackageRecord(Path("/m"), MODEL))
        assert place == (1, 2)
        other = ModelId("sha256:" + 64 * "b")
        registry, place = registry.with_export(PackageRecord(Path("/m"), other))
        assert place == (1, 1)
        assert registry.packages == (PackageRecord(Path("/m"), other),)
        assert registry.places == {MODEL: (1, 2), other: (1, 1)}

    def test_bytes_round_trip(self):
        registry, _ = (
            Registry().with_labels(["a", "b"]).with_export(PackageRecord(Path("/m"), MODEL))
        )
        registry = registry.with_model([each.class_id for each in registry.classes])
        registry = registry.without([registry.model[0]]).with_erased([registry.model[0]])
        assert Registry.from_bytes(registry.to_bytes()) == registry
        assert Registry.from_bytes(registry.to_bytes()).unfinished == ()


def document(**changes):
    id_ = 32 * "a"
    rows = {
        "format": "pfm-classes/2",
        "classes": [{"class_id": id_, "label": "secret name"}],
        "forgotten": [32 * "b"],
        "packages": [],
        "places": {},
        "model": [id_, 32 * "b"],
        "erased": [],
    }
    return json.dumps(rows | changes).encode()


DAMAGED = {
    "empty": b"",
    "torn": document()[:-9],
    "no-utf8": document().replace(b"secret", b"\xff\xfe"),
    "no-object": b"[]",
    "deep": b"[" * 100_000,
    "long-integer": document().replace(b'"places": {}', b'"places": ' + 5000 * b"9"),
    "newer-format": document(format="pfm-classes/3"),
    "unknown-key": document(floors=[]),
    "id-upper-case": document().replace(32 * b"a", 32 * b"A"),
    "id-with-newline": document(forgotten=[31 * "b" + "\n"]),
    "label-no-text": document(classes=[{"class_id": 32 * "a", "label": 7}]),
    "label-twice": document(
        classes=[{"class_id": c * 32, "label": "secret name"} for c in "ac"], model=[]
    ),
    "label-not-normal": document(classes=[{"class_id": 32 * "a", "label": "cafe\u0301"}]),
    "id-twice": document(forgotten=[32 * "b", 32 * "b"]),
    "forgotten-and-labelled": document(forgotten=[32 * "a", 32 * "b"]),
    "model-unknown": document(model=[32 * "c"]),
    "model-twice": document(model=[32 * "a", 32 * "a"]),
    "erased-not-forgotten": document(erased=[32 * "a"]),
    "relative-package": document(packages=[{"path": "model", "model_id": MODEL}]),
    "forgotten-twice": document().replace(
        b'"forgotten": [', b'"forgotten": ["' + 32 * b"b" + b'"], "forgotten": ['
    ),
    "place-zero": document(places={MODEL: {"epoch": 1, "sequence": 0}}),
    "old-out-of-order": json.dumps(
        {
            "format": "pfm-classes/1",
            "classes": [{"index": 1, "class_id": 32 * "a", "label": "secret name"}],
        }
    ).encode(),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_registries(tmp_path, name):
    path = tmp_path / "classes.json"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(RegistryError) as caught:
        read_registry(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: damaged class registry (")
    assert message.endswith("put it back from a backup")
    assert "\n" not in message
    assert "secret" not in message


def test_registries_that_cannot_be_read(tmp_path):
    with pytest.raises(RegistryError, match="no class registry there"):
        read_registry(tmp_path / "none.json")
    with pytest.raises(RegistryError, match="Is a directory"):
        read_registry(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RegistryError, match="no regular file"):
        read_registry(tmp_path / "pipe")


def test_a_change_leaves_no_old_bytes(tmp_path):
    path = tmp_path / "classes.json"
    registry = change_registry(path, lambda r: r.with_labels(["anna karenina"]), create=True)
    before = path.open("rb")  # the old file, whatever its name
    gone = registry.classes[0].class_id
    change_registry(path, lambda r: r.without([gone]), erasing=True)
    with before:
        assert set(before.read()) == {0}
    assert [each.name for each in tmp_path.iterdir()] == ["classes.json"]
    (tmp_path / "link.json").symlink_to(path)
    with pytest.raises(Exception, match="is a symbolic link") as caught:
        change_registry(tmp_path / "link.json", lambda r: r.without([32 * "c"]), erasing=True)
    assert caught.type.__name__ == "StorageError"


class TestRuns:
    def test_a_run_of_the_version_before_opens(self, tmp_path, config):
        run = Run.create(tmp_path / "run", config, ("daisy", "rose"))
        rows = [
            {"index": record.index, "class_id": record.class_id, "label": record.label}
            for record in run.classes
        ]
        run.own_registry.write_text(json.dumps({"format": "pfm-classes/1", "classes": rows}))
        assert Run.open(run.path) == run

    def test_a_replaced_run_keeps_its_ids_and_its_forget_list(self, tmp_path, config):
        first = Run.create(tmp_path / "run", config, ("daisy", "rose", "tulip"))
        gone = ids(first)["tulip"]
        change_registry(first.own_registry, lambda r: r.without([gone]).with_erased([gone]))
        again = Run.create(first.path, config, ("rose", "daisy", "tulip"), overwrite=True)
        assert again.class_ids[:2] == (ids(first)["rose"], ids(first)["daisy"])
        assert again.class_ids[2] not in first.class_ids
        assert read_registry(again.own_registry).forgotten == (gone,)
        again.require_current(least=3)

    def test_runs_that_share_a_registry_share_ids(self, tmp_path, sharing, shared):
        first = Run.create(tmp_path / "a", sharing, ("daisy", "rose"))
        second = Run.create(tmp_path / "b", sharing, ("rose", "tulip"))
        assert ids(first)["rose"] == ids(second)["rose"]
        assert {each.label for each in read_registry(shared).classes} == {"daisy", "rose", "tulip"}
        assert Run.open(second.path) == second
        second.require_current()

    def test_a_runs_own_registry_can_be_shared(self, tmp_path, config, sharing):
        first = Run.create(tmp_path / "a", config, ("daisy", "rose"))
        shares = sharing.model_copy(update={"registry": first.own_registry})
        second = Run.create(tmp_path / "b", shares, ("daisy", "lily"))
        assert ids(first)["daisy"] == ids(second)["daisy"]
        assert Run.open(first.path) == first
        alone = Run.create(first.path, shares, ("daisy", "rose"), overwrite=True)
        assert alone.config.registry is None
        assert ids(alone) == ids(first)

    def test_a_registry_that_runs_share_is_found_from_anywhere(
        self, tmp_path, sharing, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        relative = sharing.model_copy(update={"registry": Path("registry.json")})
        run = Run.create(tmp_path / "run", relative, ("daisy", "rose"))
        assert Run.resume(run.path, relative, run.labels).registry == tmp_path / "registry.json"
        monkeypatch.chdir("/")
        Run.open(run.path).require_current()

    def test_stale_missing_and_damaged_shared_registries(self, tmp_path, sharing, shared):
        Run.create(tmp_path / "a", sharing, ("daisy", "rose"))
        older = shared.read_bytes()
        run = Run.create(tmp_path / "b", sharing, ("daisy", "tulip"))
        for data, words in (
            (older, "it is older than the run, or another's: put the newest back"),
            (b"{", "damaged class registry"),
            (None, "no class registry there"),
        ):
            shared.unlink()
            if data is not None:
                shared.write_bytes(data)
            with pytest.raises(RegistryError) as caught:
                run.require_current()
            assert words in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_a_damaged_shared_registry_stops_before_an_old_run_goes(
        self, tmp_path, config, sharing, shared
    ):
        run = Run.create(tmp_path / "run", config, ("daisy", "rose"))
        before = {p.name: p.read_bytes() for p in run.path.iterdir()}
        shared.write_bytes(b"{")
        with pytest.raises(RegistryError, match="damaged"):
            Run.create(run.path, sharing, ("daisy", "rose"), overwrite=True)
        assert {p.name: p.read_bytes() for p in run.path.iterdir()} == before

    def test_two_registries_that_contradict_each_other(self, tmp_path, config, sharing):
        Run.create(tmp_path / "a", sharing, ("daisy", "rose"))
        run = Run.create(tmp_path / "b", config, ("daisy", "rose"))
        with pytest.raises(RegistryError, match="train into another directory"):
            Run.create(run.path, sharing, ("daisy", "rose"), overwrite=True)
        assert Run.open(run.path) == run

    def test_resume_needs_the_registry_of_the_run(self, tmp_path, config, sharing):
        run = Run.create(tmp_path / "a", sharing, ("daisy", "rose"))
        with pytest.raises(RunError, match="registry differs from the run's"):
            Run.resume(run.path, config, run.labels)

    def test_a_class_forgotten_through_another_run(self, tmp_path, sharing, shared):
        run = Run.create(tmp_path / "a", sharing, ("daisy", "rose"))
        gone = ids(run)["rose"]
        change_registry(shared, lambda r: r.without([gone]))
        with pytest.raises(RunError, match=f"lists as forgotten; pfm-edge forget {run.path}"):
            run.require_current()
        with pytest.raises(RunError, match="a forget is not finished"):
            Run.create(run.path, sharing, ("daisy", "rose"), overwrite=True)
