"""The tensor container: a strict subset of safetensors with one spelling per content."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from pfm_edge_runtime.bundle import BundleLimits, read_tensors, write_tensors
from pfm_edge_runtime.errors import BundleFormatError
from tests.support.containers import container

# Two tensors and one text, byte for byte: what any implementation must read and write.
_HEADER = (
    b'{"__metadata__":{"k":"v"},'
    b'"a":{"data_offsets":[0,8],"dtype":"F32","shape":[2]},'
    b'"b.c-d_1":{"data_offsets":[8,12],"dtype":"F32","shape":[]}}'
)
_PADDED = _HEADER + b" " * (-len(_HEADER) % 8)
_DATA = bytes.fromhex("0000803f000000c00000c040")  # 1, -2; 6
_LITERAL = len(_PADDED).to_bytes(8, "little") + _PADDED + _DATA


def test_literal_bytes_both_ways() -> None:
    tensors, metadata = read_tensors(_LITERAL)
    assert metadata == {"k": "v"}
    assert tensors["a"].tolist() == [1.0, -2.0]
    assert tensors["b.c-d_1"].shape == ()
    assert tensors["b.c-d_1"] == 6.0
    assert write_tensors(dict(reversed(tensors.items())), metadata) == _LITERAL


def test_the_safetensors_library_reads_what_we_write() -> None:
    rng = np.random.default_rng(1)
    tensors = {
        "x": rng.standard_normal((3, 2, 4)).astype(np.float32),
        "empty": np.zeros((0, 5), np.float32),
        "number": np.array(2.5, np.float32),
    }
    data = write_tensors(tensors, {"note": 'é "quoted" \\ \n'})
    loaded = safetensors.numpy.load(data)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor)


def test_arrays_are_private_copies_that_cannot_be_written() -> None:
    tensors, _ = read_tensors(_LITERAL)
    assert tensors["a"].flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        tensors["a"][0] = 0


def test_a_view_of_any_stride_is_written_in_row_major_order() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    data = write_tensors({"x": array[::2, ::-3]}, {})
    np.testing.assert_array_equal(read_tensors(data)[0]["x"], array[::2, ::-3])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, ">f4"])
def test_writes_float32_only(dtype: str) -> None:
    with pytest.raises(BundleFormatError, match="float32"):
        write_tensors({"x": np.zeros(2, dtype)}, {})


@pytest.mark.parametrize("name", ["", "X", "1x", "../x", "a/b", "a b", "é", "x" * 129, "x\n"])
def test_refuses_other_names_both_ways(name: str) -> None:
    with pytest.raises(BundleFormatError, match="name"):
        write_tensors({name: np.zeros(1, np.float32)}, {})
    with pytest.raises(BundleFormatError, match="name"):
        write_tensors({}, {name: "text"})
    declared = {"data_offsets": [0, 4], "dtype": "F32", "shape": [1]}
    with pytest.raises(BundleFormatError):
        read_tensors(container({"__metadata__": {}, name: declared}, bytes(4)))
    with pytest.raises(BundleFormatError):
        read_tensors(container({"__metadata__": {name: "text"}}, b""))


def test_refuses_text_that_is_none() -> None:
    with pytest.raises(BundleFormatError, match="surrogate"):
        write_tensors({}, {"k": "\ud800"})


def test_limits_hold_before_anything_is_parsed() -> None:
    with pytest.raises(BundleFormatError, match="larger than"):
        read_tensors(_LITERAL, limits=BundleLimits(max_file_bytes=len(_LITERAL) - 1))
    with pytest.raises(BundleFormatError, match="header beyond"):
        read_tensors(_LITERAL, limits=BundleLimits(max_header_bytes=len(_PADDED) - 1))
    with pytest.raises(BundleFormatError, match="more than 1 tensors"):
        read_tensors(_LITERAL, limits=BundleLimits(max_tensors=1))


@pytest.mark.parametrize("length", range(len(_LITERAL)))
def test_every_prefix_is_refused(length: int) -> None:
    with pytest.raises(BundleFormatError):
        read_tensors(_LITERAL[:length])


def test_the_helper_of_these_tests_spells_as_we_do() -> None:
    assert container(json.loads(_HEADER), _DATA) == _LITERAL


_NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)
_ARRAYS = st.lists(st.integers(0, 3), max_size=3).flatmap(
    lambda shape: st.binary(
        min_size=int(np.prod(shape, dtype=int)) * 4, max_size=int(np.prod(shape, dtype=int)) * 4
    ).map(lambda data: np.frombuffer(data, "<f4").reshape(shape))
)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(_NAMES, _ARRAYS, max_size=4), st.dictionaries(_NAMES, _TEXTS, max_size=3))
def test_round_trip(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    data = write_tensors(tensors, metadata)
    found, texts = read_tensors(data)
    assert texts == metadata
    assert {name: each.tobytes() for name, each in found.items()} == {
        name: each.tobytes() for name, each in tensors.items()
    }
    assert write_tensors(dict(reversed(found.items())), texts) == data
    assert int.from_bytes(data[:8], "little") % 8 == 0
    assert safetensors.numpy.load(data).keys() == tensors.keys()
