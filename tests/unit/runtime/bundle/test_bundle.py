"""The bundle: built, written, read and redacted."""

import base64
import hashlib
import json
import random
from dataclasses import replace
from unicodedata import normalize

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from pfm_edge_runtime.bundle import (
    Bundle,
    BundleLimits,
    ClassId,
    Entry,
    ModelBinding,
    is_class_id,
    new_class_id,
)
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import (
    BundleFormatError,
    UnknownClassError,
    VerificationError,
)
from pfm_edge_runtime.manifest import ModelId
from tests.support.containers import container, split
from tests.support.tiny_package import INPUTS, ISSUED_AT, LABELS, MODEL_ID, build_bundle, entries

_MANIFEST = b"{}"


def _bundle(labels: tuple[str, ...] = LABELS) -> Bundle:
    return build_bundle(_MANIFEST, labels)


def _build(issued: list[Entry], **others: object) -> Bundle:
    arguments = {
        "model_id": MODEL_ID,
        "manifest_digests": [digest_of(_MANIFEST)],
        "inputs": INPUTS,
        "entries": issued,
        "issued_at": ISSUED_AT,
    }
    return Bundle.build(**{**arguments, **others})  # type: ignore[arg-type]


def _row(bundle: Bundle, class_id: ClassId) -> dict[str, bytes]:
    row = bundle.class_ids.index(class_id)
    return {name: tensor[row].tobytes() for name, tensor in bundle.tensors.items()}


def test_layout_is_that_of_the_specification() -> None:
    """Take the file apart by hand, with nothing of the code under test."""
    header, data = split(_bundle().to_bytes())
    metadata = header.pop("__metadata__")
    assert metadata.keys() == {"pfm_bundle", "statement", "entries"}
    assert metadata["pfm_bundle"] == "1"
    envelope = json.loads(metadata["statement"])
    assert envelope["payloadType"] == "application/vnd.pfm-edge.bundle+json"
    assert envelope["signatures"] == []
    payload = json.loads(base64.b64decode(envelope["payload"], validate=True))
    assert payload == {
        "format": "pfm-bundle/1",
        "model_id": MODEL_ID,
        "manifests": ["sha256:" + hashlib.sha256(_MANIFEST).hexdigest()],
        "epoch": 1,
        "sequence": 1,
        "issued_at": "2026-01-02T03:04:05Z",
        "inputs": [{"name": name, "slice_shape": list(shape)} for name, shape in INPUTS],
        "entry_digests": payload["entry_digests"],
    }
    texts = json.loads(metadata["entries"])
    assert payload["entry_digests"] == sorted(
        hashlib.sha256(text.encode("ascii")).hexdigest() for text in texts
    )
    tensors = safetensors.numpy.load(_bundle().to_bytes())
    ids = []
    for row, text in enumerate(texts):
        assert "=" not in text
        salt, class_id, label, row_digest = json.loads(
            base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        )
        assert len(bytes.fromhex(salt)) == 16
        assert label in LABELS
        rows = b"".join(tensors[name][row].astype("<f4").tobytes() for name, _ in INPUTS)
        assert row_digest == hashlib.sha256(rows).hexdigest()
        ids.append(class_id)
    assert ids == sorted(ids)
    assert len(data) == sum(tensor.nbytes for tensor in tensors.values())


def test_reading_gives_back_what_was_built() -> None:
    built = _bundle()
    read = Bundle.from_bytes(built.to_bytes())
    assert read.to_bytes() == built.to_bytes()
    assert read.model_id == MODEL_ID
    assert read.inputs == INPUTS
    assert set(read.labels) == set(LABELS)
    assert list(read.class_ids) == sorted(read.class_ids)
    for entry in entries():
        row = read.class_ids.index(entry.class_id)
        assert read.labels[row] == entry.label
        for name, tensor in entry.tensors.items():
            np.testing.assert_array_equal(read.tensors[name][row], tensor)


def test_nothing_that_it_hands_out_can_be_changed() -> None:
    bundle = _bundle()
    for each in (bundle, bundle.without([bundle.class_ids[0]])):
        with pytest.raises(ValueError, match="read-only"):
            each.tensors["class_weight"][0, 0] = 7
        with pytest.raises(TypeError):
            each.tensors["class_weight"] = np.zeros(1)  # type: ignore[index]


def test_no_label_in_a_representation() -> None:
    shown = repr(_bundle()) + repr(_bundle().entries)
    assert not any(label in shown for label in LABELS)


def test_no_entry_at_all_is_legal() -> None:
    bundle = _build([])
    assert len(bundle) == 0
    assert {name: tensor.shape for name, tensor in bundle.tensors.items()} == {
        name: (0, *shape) for name, shape in INPUTS
    }
    assert Bundle.from_bytes(bundle.to_bytes()).to_bytes() == bundle.to_bytes()


# --- without


def test_without_carries_over_what_stays_byte_for_byte() -> None:
    bundle = _bundle()
    gone = bundle.class_ids[1]
    smaller = bundle.without([gone])
    assert smaller.class_ids == tuple(each for each in bundle.class_ids if each != gone)
    assert smaller.payload == bundle.payload
    before, after = split(bundle.to_bytes())[0], split(smaller.to_bytes())[0]
    assert after["__metadata__"]["statement"] == before["__metadata__"]["statement"]
    texts = json.loads(before["__metadata__"]["entries"])
    del texts[1]
    assert json.loads(after["__metadata__"]["entries"]) == texts
    for class_id in smaller.class_ids:
        assert _row(smaller, class_id) == _row(bundle, class_id)


def test_without_equals_building_without() -> None:
    """All but the statement, which still lists what has gone, is as if it had never been there."""
    bundle = _bundle()
    for gone in bundle.class_ids:
        smaller = bundle.without([gone])
        kept = [entry for entry in entries() if entry.class_id != gone]
        fresh = _build(kept)
        assert smaller.labels == fresh.labels
        assert split(smaller.to_bytes())[1] == split(fresh.to_bytes())[1]
        ours, theirs = (split(each.to_bytes())[0] for each in (smaller, fresh))
        assert ours["__metadata__"]["entries"] == theirs["__metadata__"]["entries"]
        assert set(fresh.statement.entry_digests) < set(smaller.statement.entry_digests)


def test_nothing_of_a_class_remains_but_its_salted_digest() -> None:
    bundle = _bundle()
    data = bundle.to_bytes()
    for row, entry in enumerate(bundle.entries):
        smaller = bundle.without([entry.class_id]).to_bytes()
        text = json.loads(split(data)[0]["__metadata__"]["entries"])[row]
        assert text.encode() in data
        for trace in (text.encode(), entry.class_id.encode(), entry.tensors["prompt_values"]):
            needle = trace if isinstance(trace, bytes) else trace.tobytes()
            assert needle not in smaller
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert digest in Bundle.from_bytes(smaller).statement.entry_digests


def test_order_of_removal_changes_no_byte() -> None:
    bundle = _bundle()
    one, two, three, _ = bundle.class_ids
    expected = bundle.without([one, two, three]).to_bytes()
    assert bundle.without([three]).without([one, two]).to_bytes() == expected
    assert bundle.without([two]).without([one]).without([three]).to_bytes() == expected
    assert (
        Bundle.from_bytes(bundle.without([two]).to_bytes()).without([three, one]).to_bytes()
        == expected
    )


def test_without_everything_and_without_nothing() -> None:
    bundle = _bundle()
    empty = bundle.without(bundle.class_ids)
    assert len(empty) == 0
    assert Bundle.from_bytes(empty.to_bytes()).to_bytes() == empty.to_bytes()
    assert bundle.without([]).to_bytes() == bundle.to_bytes()


def test_without_an_unknown_class() -> None:
    with pytest.raises(UnknownClassError):
        _bundle().without([new_class_id()])


# --- binding and limits

_BINDING = ModelBinding(MODEL_ID, digest_of(_MANIFEST), INPUTS)


def test_takes_the_package_that_it_was_issued_for() -> None:
    data = _bundle().to_bytes()
    reordered = replace(_BINDING, inputs=INPUTS[::-1])
    assert Bundle.from_bytes(data, binding=_BINDING).to_bytes() == data
    assert Bundle.from_bytes(data, binding=reordered).to_bytes() == data


_OTHER_PACKAGES = {
    "another model": (replace(_BINDING, model_id=ModelId("sha256:" + "0" * 64)), "belongs to"),
    "another manifest": (replace(_BINDING, manifest_digest=digest_of(b"[]")), "manifest.json"),
    "another slice shape": (
        replace(_BINDING, inputs=(("prompt_values", (2, 5)), *INPUTS[1:])),
        "class inputs",
    ),
    "one input fewer": (replace(_BINDING, inputs=INPUTS[1:]), "class inputs"),
}


@pytest.mark.parametrize(
    ("binding", "message"), _OTHER_PACKAGES.values(), ids=_OTHER_PACKAGES.keys()
)
def test_refuses_another_package(binding: ModelBinding, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        Bundle.from_bytes(_bundle().to_bytes(), binding=binding)
    assert str(caught.value).startswith("step 4: ")


_LOW_LIMITS = {
    "file": BundleLimits(max_file_bytes=100),
    "header": BundleLimits(max_header_bytes=100),
    "classes": BundleLimits(max_classes=3),
    "tensors": BundleLimits(max_tensors=2),
    "rank": BundleLimits(max_rank=2),
    "label": BundleLimits(max_label_bytes=3),
    "manifests": BundleLimits(max_manifests=0),
}


@pytest.mark.parametrize("limits", _LOW_LIMITS.values(), ids=_LOW_LIMITS.keys())
def test_every_limit_is_enforced(limits: BundleLimits) -> None:
    with pytest.raises(BundleFormatError):
        Bundle.from_bytes(_bundle().to_bytes(), limits=limits)


def test_a_declared_gigabyte_is_not_allocated() -> None:
    header, _ = split(_bundle().to_bytes())
    header["class_bias"]["shape"] = [2**40]
    header["class_bias"]["data_offsets"] = [0, 2**42]
    with pytest.raises(BundleFormatError, match="larger than any file"):
        Bundle.from_bytes(container(header, b""))


def test_class_ids() -> None:
    drawn = {new_class_id() for _ in range(100)}
    assert len(drawn) == 100
    assert all(is_class_id(each) for each in drawn)
    assert not any(map(is_class_id, ["", "daisy", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n"]))


# --- properties

_LABELS = st.lists(
    st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8),
    unique_by=lambda text: normalize("NFC", text),
    max_size=5,
)
_FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def _random_entries(draw: st.DrawFn) -> list[Entry]:
    labels = draw(_LABELS)
    ids = draw(
        st.lists(
            st.integers(0, 2**128 - 1), unique=True, min_size=len(labels), max_size=len(labels)
        )
    )
    value = draw(_FINITE)
    return [
        Entry(
            class_id=ClassId(f"{number:032x}"),
            label=label,
            tensors={
                "w": np.full((2, 1), value, np.float32),
                "b": np.array(number % 7, np.float32),
            },
        )
        for number, label in zip(ids, labels, strict=True)
    ]


@given(_random_entries(), st.randoms(use_true_random=False))
def test_round_trip_and_order_invariance(issued: list[Entry], rng: random.Random) -> None:
    inputs = (("w", (2, 1)), ("b", ()))
    bundle = _build(issued, inputs=inputs)
    data = bundle.to_bytes()
    assert Bundle.from_bytes(data).to_bytes() == data
    salted = list(bundle.entries)
    rng.shuffle(salted)
    assert _build(salted, inputs=inputs).to_bytes() == data
    gone = [each for each in bundle.class_ids if rng.random() < 0.5]
    smaller = bundle
    for class_id in rng.sample(gone, len(gone)):
        smaller = smaller.without([class_id])
    assert smaller.to_bytes() == bundle.without(gone).to_bytes()
    assert Bundle.from_bytes(smaller.to_bytes()).class_ids == smaller.class_ids
    assert safetensors.numpy.load(smaller.to_bytes())["w"].shape == (len(smaller), 2, 1)
