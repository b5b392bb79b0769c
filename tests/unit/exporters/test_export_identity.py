"""The name of a model: its byte layout, and that nothing else goes into it."""

import hashlib

import numpy as np
import pytest

from pfm_edge_exporters import ExportError, compute_model_id

WEIGHTS = {
    "b.weight": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32),
    "a": np.array(-2, np.int64),
}
CONFIGURATION = {"depth": 2, "é": [1.5, None, True]}

# Written by hand from the docstring: every length, then the thing itself.
LAYOUT = bytes.fromhex(
    "70666d2d6d6f64656c2d69642f310a"  # pfm-model-id/1, newline
    "0200000000000000"  # two tensors
    "0100000000000000 61"  # a
    "0500000000000000 696e743634"  # int64
    "0000000000000000"  # no axes
    "0800000000000000 feffffffffffffff"  # -2
    "0800000000000000 622e776569676874"  # b.weight
    "0700000000000000 666c6f61743332"  # float32
    "0200000000000000 0200000000000000 0200000000000000"  # 2 by 2
    "1000000000000000 0000803f 00000040 00004040 00008040"  # 1, 2, 3, 4
    "2000000000000000"  # 32 bytes: {"depth":2,"é":[1.5,null,true]}
    "7b226465707468223a322c22c3a9223a5b312e352c6e756c6c2c747275655d7d"
)
DIGEST = "sha256:34231fed38894dc1c9c73703e7856b3dce25465ab02548c242f0887ea0452caa"


def test_the_layout_is_the_documented_one():
    assert compute_model_id(WEIGHTS, CONFIGURATION) == DIGEST
    assert "sha256:" + hashlib.sha256(LAYOUT).hexdigest() == DIGEST


def test_only_content_counts_not_order_or_memory():
    weight = WEIGHTS["b.weight"]
    same = {
        "a": WEIGHTS["a"].astype(">i8"),
        "b.weight": lambda: np.asfortranarray(np.repeat(weight, 2, axis=1))[:, ::2],
    }
    configuration = {"é": [1.5, None, True], "depth": 2}
    assert compute_model_id(same, configuration) == DIGEST


def changed(name="b.weight", array=WEIGHTS["b.weight"], **configuration):
    tensors = {"a": WEIGHTS["a"], name: array}
    return compute_model_id(tensors, {**CONFIGURATION, **configuration})


def test_every_part_counts():
    weight = WEIGHTS["b.weight"]
    ids = [
        changed(),
        changed(name="b.bias"),
        changed(array=weight + np.float32(1e-6)),
        changed(array=weight.reshape(4)),
        changed(array=weight.reshape(4, 1)),
        changed(array=weight.view(np.int32)),
        changed(array=np.array([[0.0, 2.0], [3.0, 4.0]], np.float32)),
        changed(array=np.array([[-0.0, 2.0], [3.0, 4.0]], np.float32)),
        changed(array=np.zeros((0, 2), np.float32)),
        changed(array=np.zeros((2, 0), np.float32)),
        changed(depth=3),
        changed(depth=2.0),
        changed(width=1),
        compute_model_id({"a": WEIGHTS["a"]}, CONFIGURATION),
        compute_model_id({}, {}),
    ]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "configuration",
    [
        {"depth": float("nan")},
        {"depth": float("inf")},
        {"sizes": (1, 2)},
        {"sizes": [{1: 2}]},
        {"path": np.float32(1)},
        {"text": "\ud800"},
    ],
)
def test_a_configuration_that_is_no_json_is_refused(configuration):
    with pytest.raises(ExportError) as caught:
        compute_model_id({}, configuration)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([1j]), np.array([None])])
def test_a_tensor_without_a_fixed_spelling_is_refused(array):
    with pytest.raises(ExportError, match="'odd'"):
        compute_model_id({"odd": array}, {})
