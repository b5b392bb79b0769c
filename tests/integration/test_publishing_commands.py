"""From a key to a signed package, and from a forget to a package without: through `main(argv)`."""

import io
import json
import sys
from pathlib import Path

import pytest

from pfm_edge.cli import main
from pfm_edge.erasing import forget_in_run
from pfm_edge.registry import read_registry
from pfm_edge.training import Run, in_use
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.errors import VerificationError
from pfm_edge_runtime.opening import open_model

CONFIG = """
data: {name: digits}
backbone:
  model: vit_tiny_patch16_224
  arguments: {img_size: 8, patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2, in_chans: 1}
adaptation: {kind: full}
training: {epochs: 2, batch_size: 64, device: cpu, max_steps: 30}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def run(config, tmp_path):
    path = tmp_path / "run"
    assert main(["train", str(config), "--out", str(path)]) == 0
    return path


@pytest.fixture
def key(tmp_path):
    assert main(["keys", "new", str(tmp_path / "issuer.pem")]) == 0
    return tmp_path / "issuer.pem"


@pytest.fixture
def refused(capsys):
    """Run a command that must fail; return its one line."""

    def runner(*arguments):
        capsys.readouterr()
        assert main([str(each) for each in arguments]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        errors = [each for each in printed.err.splitlines() if not each.startswith("warning: ")]
        assert len(errors) == 1, printed.err
        assert errors[0].startswith("error: ")
        return errors[0]

    return runner


@pytest.fixture
def typed(monkeypatch):
    """Put bytes on standard input."""

    def type_in(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return type_in


def bundle_of(package: Path) -> Bundle:
    return Bundle.from_bytes((package / "bundle.safetensors").read_bytes())


def id_of(run: Path, label: str) -> str:
    return next(each.class_id for each in Run.open(run).classes if each.label == label)


def test_an_export_is_signed_numbered_and_noted(run, key, tmp_path, capsys):
    model = tmp_path / "model"
    assert main(["export", str(run), "--out", str(model), "--key", str(key), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["epoch"], report["sequence"]) == (1, 1)
    assert len(report["signers"]) == 1
    public = str(key.with_suffix(".pub"))
    assert main(["bundle", "verify", str(model), "--key", public, "--package", str(model)]) == 0
    for expected, out in ((2, model), (3, tmp_path / "other")):
        capsys.readouterr()
        assert main(["export", str(run), "--out", str(out), "--overwrite"]) == 0
        assert "a device that trusts keys refuses it" in capsys.readouterr().err
        assert bundle_of(out).statement.sequence == expected
    registry = read_registry(run / "classes.json")
    assert [each.path for each in registry.packages] == [model, tmp_path / "other"]
    assert registry.places == {report["model_id"]: (1, 3)}


def test_a_wrong_key_is_refused_before_the_work(run, key, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("pfm_edge.publishing._export.load_model", None)  # a call is a TypeError
    out = tmp_path / "model"
    export = ("export", run, "--out", out, "--key")
    assert "it is a public key" in refused(*export, key.with_suffix(".pub"))
    assert "no such file" in refused(*export, tmp_path / "none.pem")
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    locked = tmp_path / "locked.pem"
    assert main(["keys", "new", str(locked), "--passphrase-file", str(secret)]) == 0
    assert "give its passphrase" in refused(*export, locked)
    secret.write_text("wrong\n")
    assert "passphrase is wrong" in refused(*export, locked, "--passphrase-file", secret)
    assert not out.exists()
    assert main(["export", str(run), "--passphrase-file", str(secret)]) == 2


def test_the_story(config, run, key, tmp_path, capsys, typed):
    model, public = tmp_path / "model", str(key.with_suffix(".pub"))
    assert main(["evaluate", str(run)]) == 0
    assert main(["export", str(run), "--out", str(model), "--key", str(key)]) == 0
    before, gone = bundle_of(model), id_of(run, "7")

    typed(b"7\n")
    capsys.readouterr()
    assert main(["forget", str(run), "--class", "-", "--yes"]) == 0

    printed = capsys.readouterr()
    assert printed.out == f"forgotten: {gone}\n"
    assert f"{run / 'checkpoint.safetensors'}: rewritten; its old bytes were" in printed.err
    assert "What stays: the weights that all classes share" in printed.err
    assert f"{model}: holds none of them" in printed.err
    assert bundle_of(model).to_bytes() == before.without([gone]).to_bytes()
    assert main(["bundle", "verify", str(model), "--key", public, "--package", str(model)]) == 0
    assert not (run / "evaluation.json").exists()

    assert main(["evaluate", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["removed"] for row in report["forgetting"]] == [1, 4, 8]

    resume = ["train", str(config), "--out", str(run), "--resume", "--set", "training.max_steps=31"]
    assert main(resume) == 0
    assert "images of the data are left out, of classes that were forgotten: 1" in (
        capsys.readouterr().err
    )
    again = tmp_path / "again"
    assert main(["export", str(run), "--out", str(again), "--key", str(key)]) == 0
    assert bundle_of(again).class_ids == tuple(each for each in before.class_ids if each != gone)

    capsys.readouterr()
    assert main(["forget", str(run), "--class", gone, "--yes", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["forgotten"] == [gone]
    assert report["checkpoints"] == []
    assert report["packages"] == [str(model), str(again)]


def test_a_device_memory_here_learns_what_goes_from_its_packages(run, tmp_path, capsys):
    """Else it would take the class for one that somebody dropped from the package."""
    model, gone = tmp_path / "model", id_of(run, "7")
    assert main(["export", str(run), "--out", str(model)]) == 0
    assert gone in open_model(model).bundle.class_ids
    assert main(["forget", str(run), "--class", gone, "--yes"]) == 0
    opened = open_model(model)
    assert gone not in opened.bundle.class_ids
    assert gone in opened.state.memory.tombstones
    assert opened.state.memory.erased(gone) is not None
    assert opened.problem is None


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_another_device_is_told_the_way_on_and_it_is_one(run, key, tmp_path, capsys, signed):
    """It saw the bundle with the class, and cannot tell a forget from a theft."""
    model, gone = tmp_path / "model", id_of(run, "7")
    export = ["export", str(run), "--out", str(model), "--overwrite"]
    if signed:
        export += ["--key", str(key)]
    assert main(export) == 0
    device = open_model(model, state=tmp_path / "elsewhere").state
    capsys.readouterr()
    assert main(["forget", str(run), "--class", gone, "--yes"]) == 0
    way = f"pfm-edge export {run} --out {model} --overwrite"
    assert way in " ".join(capsys.readouterr().err.split())
    with pytest.raises(VerificationError, match=r"step 11.* lacks 1 of .* ota publish") as caught:
        open_model(model, state=device)
    assert "that this device had;" in str(caught.value)  # the one that it had would undo the forget
    assert main(export) == 0
    assert gone not in open_model(model, state=device).bundle.class_ids


def test_a_device_memory_that_does_not_know_the_package_is_left_alone(run, tmp_path, device_state):
    gone = id_of(run, "7")
    assert main(["export", str(run), "--out", str(tmp_path / "model")]) == 0
    assert main(["forget", str(run), "--class", gone, "--yes"]) == 0
    assert not device_state.exists()
    assert gone not in open_model(tmp_path / "model").bundle.class_ids
    assert gone not in open_model(tmp_path / "model").state.memory.tombstones


def test_a_label_keeps_its_id_in_every_retraining(config, tmp_path, capsys):
    registry = tmp_path / "registry.json"

    def train(name, *options):
        path = tmp_path / name
        arguments = ["train", str(config), "--out", str(path), "--set", "training.max_steps=1"]
        assert main([*arguments, "--registry", str(registry), *options]) == 0
        return path

    first, second = train("first"), train("second")
    ids = Run.open(first).class_ids
    assert Run.open(second).class_ids == ids
    assert main(["forget", str(first), "--class", ids[3], "--yes"]) == 0
    third = train("third")
    assert Run.open(third).class_ids[3] not in ids
    assert Run.open(third).class_ids[:3] == ids[:3]
    assert read_registry(registry).forgotten == (ids[3],)
    capsys.readouterr()
    for command in (
        ["export", str(second), "--out", str(tmp_path / "m")],
        ["evaluate", str(second)],
    ):
        assert main(command) == 1
        assert f"pfm-edge forget {second} erases it" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
    assert main(["forget", str(second), "--yes"]) == 0
    assert capsys.readouterr().out == f"forgotten: {ids[3]}\n"
    assert main(["export", str(second), "--out", str(tmp_path / "m")]) == 0
    assert ids[3] not in bundle_of(tmp_path / "m").class_ids


@pytest.mark.parametrize("command", ["evaluate", "export", "train", "forget"])
def test_an_interrupted_forget_is_finished_by_what_comes_next(
    config, run, tmp_path, capsys, monkeypatch, command
):
    gone = id_of(run, "7")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pfm_edge.erasing._run.drop_classes", killed)
        with pytest.raises(KeyboardInterrupt):
            forget_in_run(run, [gone])
    arguments = {
        "evaluate": ["evaluate", str(run)],
        "export": ["export", str(run), "--out", str(tmp_path / "model")],
        "train": ["train", str(config), "--out", str(run), "--resume"],
        "forget": ["forget", str(run), "--yes"],
    }[command]
    capsys.readouterr()
    assert main(arguments) == 0
    printed = capsys.readouterr()
    if command == "forget":
        assert printed.out == f"forgotten: {gone}\n"
    else:
        assert "an interrupted forget of 1 class is finished now" in printed.err
    assert read_registry(run / "classes.json").unfinished == ()


def test_what_forget_refuses(run, tmp_path, refused, typed):
    gone = id_of(run, "7")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert "no class has that id or label" in refused("forget", run, "--class", 32 * "0", "--yes")
    assert "no class is named" in refused("forget", run, "--yes")
    assert "add --yes" in refused("forget", run, "--class", gone)
    assert "give it alone" in refused("forget", run, "--class", "-", "--class", gone, "--yes")
    assert "no run here" in refused("forget", tmp_path, "--class", gone, "--yes")
    typed(b"")
    assert "standard input is empty" in refused("forget", run, "--class", "-", "--yes")
    typed(b"\xff\n")
    assert "no UTF-8" in refused("forget", run, "--class", "-", "--yes")
    typed(b"secret name\n7\n")
    error = refused("forget", run, "--class", "-", "--yes")
    assert "name 1 of 2: no class has that id or label" in error
    assert "secret" not in error
    with in_use(run):
        assert "in use by another process" in refused("forget", run, "--class", gone, "--yes")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_person_is_asked(run, capsys, monkeypatch):
    gone, answers = id_of(run, "7"), []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda text, err: answers.append(text) or "7")

    def declined(text, abort, err):
        answers.append(text)
        import typer

        raise typer.Abort

    monkeypatch.setattr("typer.confirm", declined)
    assert main(["forget", str(run)]) == 1
    assert answers == ["Class id or label", f"Forget 1 class of {run} for good?"]
    assert f"class {gone}" in capsys.readouterr().err
    assert id_of(run, "7") == gone
    monkeypatch.setattr("typer.confirm", lambda text, abort, err: True)
    assert main(["forget", str(run)]) == 0
    assert gone not in Run.open(run).class_ids


def test_bad_registries(config, run, tmp_path, refused):
    registry = tmp_path / "registry.json"
    registry.write_text("{")
    train = ("train", config, "--out", tmp_path / "new", "--registry")
    assert "damaged class registry" in refused(*train, registry)
    assert "No such file or directory" in refused(*train, tmp_path / "no" / "registry.json")
    assert "Is a directory" in refused(*train, tmp_path)
    assert not (tmp_path / "new").exists()
    resume = ("train", config, "--out", run, "--resume", "--registry", registry)
    assert "registry differs from the run's" in refused(*resume)
    (run / "classes.json").write_text("{")
    for command in (["evaluate"], ["export"], ["forget", "--yes", "--class", 32 * "0"]):
        assert "damaged class registry" in refused(command[0], run, *command[1:])
