"""Options of targets: read, refused in one helpful line, listed; and what target.json may say."""

import json
from pathlib import Path

import pytest

from pfm_edge_exporters.targets import (
    RECORD_FILE,
    TARGETS,
    TargetRecord,
    describe_options,
    find_target,
    parse_options,
)
from pfm_edge_exporters.targets.triton import version_number
from pfm_edge_exporters.tensorrt_from_onnx import Range
from pfm_edge_runtime.errors import ConfigError, PackageError
from pfm_edge_runtime.manifest import ModelId

ID = "0123456789abcdef" * 2
EVERYONES = {name: target.options for name, target in TARGETS.items()}


def parse(target: str, *given: str):
    return parse_options(target, find_target(target).options, given, EVERYONES)


def test_options_are_read_with_hyphens_or_underscores():
    found = parse("tensorrt-rtx", "batch=2:4:8", "classes=1:2:3, 4:5:6", "compute-capabilities=8.6")
    assert found.batch == Range(2, 4, 8)
    assert found.classes == (Range(1, 2, 3), Range(4, 5, 6))
    assert found.compute_capabilities == ("8.6",)
    assert parse("triton", "max_batch=16", "kind=GPU").kind == "gpu"
    assert parse("tensorrt", "version-compatible=yes").version_compatible is True


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("triton", ["max_bach=3"], r"'max_bach' \(did you mean 'max-batch'\?\); it takes"),
        ("triton", ["timing-cache=x"], r"'timing-cache' \(target tensorrt does\)"),
        ("tensorrt-rtx", ["level=3"], r"\(target tensorrt does\)"),
        ("ort-adapter", ["name=x"], r"\(target triton does\); it takes variant, graph"),
        ("triton", ["max_batch"], "needs a value, 1 to 4096"),
        ("triton", ["max_batch=0"], "must be 1 to 4096, not '0'"),
        ("triton", ["max_batch=many"], "must be 1 to 4096, not 'many'"),
        ("triton", ["name="], "must be NAME, not ''"),
        ("triton", ["max_batch=1", "max-batch=2"], "given twice"),
        ("triton", ["kind=tpu"], "auto, cpu or gpu"),
        ("tensorrt-rtx", ["batch=8"], "must be MIN:OPT:MAX"),
        ("tensorrt-rtx", ["classes=8:1:1"], "MIN:OPT:MAX.*, not '8:1:1': .* must ascend, from 1"),
        ("tensorrt-rtx", [f"classes=1:1:{10**20}"], "must be MIN:OPT:MAX"),
        ("tensorrt-rtx", ["compute_capabilities=8.6,"], "must be 8.6"),
        ("tensorrt", ["version_compatible=maybe"], "must be yes or no"),
    ],
)
def test_an_option_that_cannot_be_is_one_helpful_line(target, given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(target, *given)
    assert "\n" not in str(caught.value)


def test_a_misspelt_target_is_named_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"'tensort' \(did you mean 'tensorrt'\?\); there is .*ort-adapter"
    ):
        find_target("tensort")


def test_every_option_says_what_it_is():
    for target in TARGETS.values():
        target.options()  # every one has a default
        for option in describe_options(target.options):
            assert option.kind
            assert "_" not in option.name  # as documentation has it
            assert option.help.endswith(".")


def record(**changes: object) -> bytes:
    document = {
        "format": "pfm-target/1",
        "target": "triton",
        "model_id": "sha256:" + 64 * "a",
        "inputs": {},
        "made_with": {},
        "options": {},
        "classes": [ID],
        "class_axes": {"class_weight": 0},
        "files": {"1000000001/model.onnx": "sha256:" + 64 * "b"},
    }
    return json.dumps(document | changes).encode()


def test_a_record_is_read_back(tmp_path):
    (tmp_path / RECORD_FILE).write_bytes(record())
    found = TargetRecord.read(tmp_path)
    assert (found.model_id, found.classes) == (ModelId("sha256:" + 64 * "a"), (ID,))
    (tmp_path / RECORD_FILE).write_bytes(found.to_bytes())
    assert TargetRecord.read(tmp_path) == found
    assert found.without([ID]).classes == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 10_000,
        record(format="pfm-target/2"),
        record(classes=[ID, ID]),
        record(classes=["../x"]),
        record(classes=None),
        record(class_axes={"class_weight": -1}),
        record(class_axes={"class_weight": "x"}),
        record(files={"../model.onnx": "x"}),
        record(files={"1/2/model.onnx": "x"}),
        record(inputs={"manifest.json": 3}),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / RECORD_FILE).write_bytes(data)
    with pytest.raises(PackageError, match="is damaged, so nobody knows what is beside it"):
        TargetRecord.read(tmp_path)


def test_a_bundle_has_its_own_version():
    assert version_number(1, 3) == 1_000_000_003
    assert version_number(2, 1) > version_number(1, 10**9 - 1)
    for epoch, sequence in ((1, 10**9), (10**10, 1)):
        with pytest.raises(ConfigError, match="fit no version"):
            version_number(epoch, sequence)
