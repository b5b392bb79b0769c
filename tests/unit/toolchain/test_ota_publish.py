"""Publishing and forgetting, as TUF's own client sees the result."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pfm_edge.ota import OrderRequest, PublisherRepository, RolloutRequest, forget, publish
from pfm_edge.registry import change_registry, read_registry
from pfm_edge_runtime.bundle import Bundle, TrustedKeys
from pfm_edge_runtime.errors import UnknownClassError, UpdateError
from pfm_edge_runtime.keys import public_from_bytes
from pfm_edge_runtime.ota.forget_list import ForgetList
from tests.support.publisher import CLASS_IDS, Publisher
from tests.support.tiny_package import INPUTS, LABELS, MODEL_ID, entries

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher.make(tmp_path)


def _trust(publisher: Publisher, role: str) -> TrustedKeys:
    [key] = publisher.keys[role]  # type: ignore[index]
    return TrustedKeys(
        1, frozenset({public_from_bytes(bytes.fromhex(key.public.keyval["public"]))})
    )


def _bundle(publisher: Publisher, **changes: object) -> Bundle:
    found = {
        "model_id": MODEL_ID,
        "manifest_digests": ["sha256:" + "ab" * 32],
        "inputs": INPUTS,
        "entries": entries(),
        "issued_at": publisher.clock(),
    }
    return Bundle.build(**(found | changes))  # type: ignore[arg-type]


def test_a_new_repository_serves_an_empty_forget_list(publisher: Publisher) -> None:
    client = publisher.client()
    text = client.target("forget.json")
    found = ForgetList.parse(text or b"", _trust(publisher, "forget"))
    assert (found.number, found.rows) == (1, ())
    assert (publisher.public / "forget.json").read_bytes() == text
    assert client.target(f"channel/{MODEL_ID[7:]}.json") is None
    root = publisher.public / "root.json"
    assert root.read_bytes() == (publisher.public / "metadata/1.root.json").read_bytes()


def test_a_published_bundle_is_signed_by_the_bundle_keys(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package())
    bundle = publisher.client().bundle(MODEL_ID)
    assert bundle.labels == tuple(sorted(LABELS, key=CLASS_IDS.__getitem__))
    assert bundle.envelope.signers() == _trust(publisher, "bundles").keys


def test_a_bundle_at_its_place_keeps_its_statement(publisher: Publisher) -> None:
    """A device that has the exported package needs no download then."""
    exported = Bundle.from_bytes((publisher.package() / "bundle.safetensors").read_bytes())
    publish(publisher.repository, publisher.package())
    assert publisher.client().bundle(MODEL_ID).statement_digest == exported.statement_digest


@pytest.mark.parametrize(
    ("first", "second", "place"),
    [
        pytest.param(5, 6, (1, 6), id="the next export is the next place"),
        pytest.param(5, 5, (1, 6), id="a place that is taken is not given twice"),
        pytest.param(5, 2, (1, 6), id="an older export comes after what is there"),
    ],
)
def test_places_only_grow(
    publisher: Publisher, first: int, second: int, place: tuple[int, int]
) -> None:
    publish(publisher.repository, _bundle(publisher, sequence=first))
    publish(publisher.repository, _bundle(publisher, sequence=second, entries=entries(LABELS[:3])))
    statement = publisher.client().bundle(MODEL_ID).statement
    assert (statement.epoch, statement.sequence) == place


def test_a_bundle_that_lacks_listed_classes_comes_after_itself(publisher: Publisher) -> None:
    whole = _bundle(publisher, sequence=3)
    publish(publisher.repository, whole.without([CLASS_IDS["rose"]]))
    statement = publisher.client().bundle(MODEL_ID).statement
    assert (statement.sequence, len(statement.entry_digests)) == (4, len(LABELS) - 1)


def test_the_same_classes_are_not_published_twice(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package())
    before = publisher.files()
    outcome = publish(publisher.repository, publisher.package())
    assert publisher.files() == before
    assert "already" in outcome.notes[0]


def test_a_new_bundle_takes_the_old_file_away(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package())
    publish(publisher.repository, publisher.package(classes=3))
    names = [each.name for each in publisher.public.rglob("*.safetensors")]
    assert [name.partition(".")[2] for name in names] == ["1-2.safetensors"]


def test_a_bundle_with_a_forgotten_class_is_refused(publisher: Publisher) -> None:
    change_registry(publisher.registry, lambda known: known.without([CLASS_IDS["rose"]]))
    with pytest.raises(UpdateError, match=CLASS_IDS["rose"]):
        publish(publisher.repository, publisher.package())


def test_a_bundle_of_another_registry_is_refused(publisher: Publisher) -> None:
    stranger = replace(entries()[0], class_id="ab" * 16, label="stranger")  # type: ignore[arg-type]
    with pytest.raises(UpdateError, match="does not know 1") as caught:
        publish(publisher.repository, _bundle(publisher, entries=[stranger]))
    assert "stranger" not in str(caught.value)


def test_a_bundle_of_the_future_is_refused(publisher: Publisher) -> None:
    ahead = publisher.clock() + timedelta(minutes=6)
    with pytest.raises(UpdateError, match="set the clocks"):
        publish(publisher.repository, _bundle(publisher, issued_at=ahead))


def test_what_was_altered_where_it_is_served_is_not_signed_again(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package())
    [path] = publisher.public.rglob("*.safetensors")
    path.write_bytes(_bundle(publisher, entries=entries(LABELS[:1])).to_bytes())
    assert "cannot be read" in forget(publisher.repository, ["rose"]).notes[-1]
    assert publisher.channel().stable is None
    assert [*publisher.public.rglob("*.safetensors")] == []


def test_metadata_that_is_served_is_never_read_back(publisher: Publisher) -> None:
    for path in (publisher.public / "metadata").iterdir():
        path.write_bytes(b"{}")
    publish(publisher.repository, publisher.package())
    assert PublisherRepository.open(publisher.repository.directory)


# --- forgetting ---------------------------------------------------------------------------------


def test_forget_changes_registry_list_and_bundles_in_one_step(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package())
    rose = Bundle.from_bytes((publisher.package() / "bundle.safetensors").read_bytes())
    row = rose.class_ids.index(CLASS_IDS["rose"])
    order = OrderRequest("2026-17", "consent")
    forget(publisher.repository, [CLASS_IDS["rose"]], order=order)
    client = publisher.client()
    found = ForgetList.parse(client.target("forget.json") or b"", _trust(publisher, "forget"))
    assert [(each.class_id, each.order_id, each.reason) for each in found.rows] == [
        (CLASS_IDS["rose"], "2026-17", "consent")
    ]
    assert (found.number, found.rows[0].time) == (2, found.issued_at)
    bundle = client.bundle(MODEL_ID)
    assert CLASS_IDS["rose"] not in bundle.class_ids
    assert len(bundle.statement.entry_digests) == len(LABELS) - 1
    assert read_registry(publisher.registry).forgotten == (CLASS_IDS["rose"],)
    whole = rose.to_bytes()
    entry = re.findall(rb"Wy[A-Za-z0-9_-]{80,}", whole)[row]  # base64url of '["'
    digest = rose.entry_digests[row].encode()
    for trace in (publisher.trace("rose"), entry, digest):
        assert trace in whole or trace == digest  # which is in the signed payload, encoded
        assert publisher.holding(trace) == []
    assert b"rose" not in publisher.registry.read_bytes()


def test_forget_reaches_both_live_bundles(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package())
    publish(
        publisher.repository, publisher.package(classes=3), rollout=RolloutRequest(10, ("lab",))
    )
    before = publisher.channel()
    forget(publisher.repository, ["rose"])
    after = publisher.channel()
    assert after.stable is not None
    assert after.candidate is not None
    assert (after.stable.sequence, after.candidate.sequence) == (3, 4)
    assert before.candidate is not None
    assert before.candidate.rollout is not None
    assert after.candidate.rollout == before.candidate.rollout.after(before.candidate.statement)
    client = publisher.client()
    for candidate in (False, True):
        assert CLASS_IDS["rose"] not in client.bundle(MODEL_ID, candidate=candidate).class_ids


def test_forget_leaves_a_model_alone_that_lacks_the_class(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package(classes=2))
    before = publisher.channel()
    forget(publisher.repository, ["violet"])
    assert publisher.channel() == before


def test_the_list_is_cumulative_and_a_class_is_ordered_once(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"])
    forget(publisher.repository, ["tulip", CLASS_IDS["rose"]], order=OrderRequest("second"))
    text = publisher.client().target("forget.json")
    found = ForgetList.parse(text or b"", _trust(publisher, "forget"))
    orders = {each.class_id: each.order_id for each in found.rows}
    assert len(orders) == 2
    assert orders[CLASS_IDS["tulip"]] == "second"
    before = publisher.files()
    outcome = forget(publisher.repository, [CLASS_IDS["rose"]])
    assert outcome.committed
    assert publisher.files() == before


def test_a_class_that_was_forgotten_here_before_is_ordered_now(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package())
    change_registry(publisher.registry, lambda known: known.without([CLASS_IDS["rose"]]))
    forget(publisher.repository, [CLASS_IDS["rose"]])
    assert CLASS_IDS["rose"] not in publisher.client().bundle(MODEL_ID).class_ids


def test_a_stranger_needs_unknown(publisher: Publisher) -> None:
    with pytest.raises(UnknownClassError, match="--unknown"):
        forget(publisher.repository, ["rose", "ab" * 16])
    forget(publisher.repository, ["ab" * 16], unknown=True)
    assert read_registry(publisher.registry).forgotten == ("ab" * 16,)


def test_a_name_of_no_class_is_not_repeated(publisher: Publisher) -> None:
    with pytest.raises(UnknownClassError) as caught:
        forget(publisher.repository, ["Jane Doe"], unknown=True)
    assert "Jane" not in str(caught.value)
