"""Steps 1 and 2: files that break a limit, or the container."""

from collections.abc import Callable

from tests.hostile.defects.table import GOOD, defect
from tests.support.containers import container, split


@defect(1)
def empty_file() -> bytes:
    return b""


@defect(1)
def seven_bytes() -> bytes:
    return GOOD[:7]


@defect(1)
def header_of_16_mib_and_one() -> bytes:
    return (2**24 + 1).to_bytes(8, "little") + GOOD[8:]


@defect(1)
def header_length_overflows_64_bits_when_added() -> bytes:
    return b"\xff" * 8 + GOOD[8:]


@defect(1)
def header_length_in_big_endian() -> bytes:
    return GOOD[:8][::-1] + GOOD[8:]


def _header(edit: Callable[[dict[str, dict[str, object]]], object]) -> bytes:
    header, data = split(GOOD)
    edit(header)
    return container(header, data)


def _text(edit: Callable[[bytes], bytes], *, pad: bool = True) -> bytes:
    length = int.from_bytes(GOOD[:8], "little")
    text = GOOD[8 : 8 + length].rstrip(b" ")
    return container(edit(text), GOOD[8 + length :], pad=pad)


def _unaligned(text: bytes) -> bytes:
    assert len(text) % 8
    return text


_CONTAINER: dict[str, Callable[[], bytes]] = {
    "one_byte_short": lambda: GOOD[:-1],
    "one_byte_long": lambda: GOOD + b"\0",
    "data_missing": lambda: GOOD[: 8 + int.from_bytes(GOOD[:8], "little")],
    "header_cut_short": lambda: GOOD[:100],
    "header_length_off_by_one": lambda: (
        (int.from_bytes(GOOD[:8], "little") - 1).to_bytes(8, "little") + GOOD[8:]
    ),
    "header_is_an_array": lambda: container([], b""),
    "header_is_no_utf8": lambda: _text(lambda text: text.replace(b"F32", b"F\xff2", 1)),
    "header_with_a_byte_order_mark": lambda: _text(lambda text: b"\xef\xbb\xbf" + text),
    "header_padded_in_front": lambda: _text(lambda text: b" " * 8 + text),
    "header_padded_by_eight_more": lambda: _text(lambda text: text + b" " * (-len(text) % 8 + 8)),
    "header_padded_with_line_ends": lambda: _text(lambda text: text + b"\n" * 8),
    "header_padded_with_nul": lambda: _text(lambda text: text + b"\0" * 8),
    "header_not_padded": lambda: _text(_unaligned, pad=False),
    "header_with_white_space_inside": lambda: _text(
        lambda text: text.replace(b'"dtype":', b'"dtype": ', 1)
    ),
    "header_keys_out_of_order": lambda: _text(
        lambda text: text.replace(b'"dtype":"F32","shape":[4]', b'"shape":[4],"dtype":"F32"')
    ),
    "header_two_objects": lambda: _text(lambda text: text + b"{}"),
    "header_nested_90000_deep": lambda: _text(
        lambda text: text[:-1] + b',"z":' + b"[" * 90_000 + b"]" * 90_000 + b"}"
    ),
    "header_nested_deeper_than_a_tensor": lambda: _text(
        lambda text: text.replace(b'"shape":[4]', b'"shape":[[[4]]]', 1)
    ),
    "header_with_100000_objects": lambda: _text(
        lambda text: text[:-1] + b',"z":[' + b"{}," * 100_000 + b"{}]}"
    ),
    "tensor_declared_twice": lambda: _text(
        lambda text: text.replace(b',"class_weight":', b',"class_bias":', 1)
    ),
    "metadata_key_twice": lambda: _text(
        lambda text: text.replace(b'"pfm_bundle":"1"', b'"pfm_bundle":"1","pfm_bundle":"1"')
    ),
    "metadata_twice": lambda: _text(
        lambda text: text[:-1] + b',"__metadata__":' + text[16:].split(b"},", 1)[0] + b"}}"
    ),
    "metadata_missing": lambda: _header(lambda header: header.pop("__metadata__")),
    "metadata_is_text": lambda: _header(lambda header: header.update(__metadata__="x")),
    "metadata_value_is_a_number": lambda: _header(
        lambda header: header["__metadata__"].update(pfm_bundle=1)
    ),
    "size_of_5000_digits": lambda: _text(
        lambda text: text.replace(b'"shape":[4]', b'"shape":[' + b"4" * 5_000 + b"]", 1)
    ),
    "size_overflows_64_bits": lambda: _text(
        lambda text: text.replace(b'"shape":[4]', b'"shape":[18446744073709551620]', 1)
    ),
    "size_product_overflows": lambda: _header(
        lambda header: header["class_weight"].update(shape=[2**52, 2**52])
    ),
    "size_zero_by_a_huge_one": lambda: _header(
        lambda header: header["class_weight"].update(shape=[0, 2**52])
    ),
    "size_negative": lambda: _header(lambda header: header["class_bias"].update(shape=[-4])),
    "size_with_a_fraction": lambda: _text(
        lambda text: text.replace(b'"shape":[4]', b'"shape":[4.0]', 1)
    ),
    "size_is_true": lambda: _header(lambda header: header["class_weight"].update(shape=[4, True])),
    "size_is_nan": lambda: _text(lambda text: text.replace(b'"shape":[4]', b'"shape":[NaN]', 1)),
    "shape_missing": lambda: _header(lambda header: header["class_bias"].pop("shape")),
    "shape_of_nine_axes": lambda: _header(
        lambda header: header["class_bias"].update(shape=[4, *[1] * 8])
    ),
    "offset_is_false": lambda: _header(
        lambda header: header["class_bias"].update(data_offsets=[False, 16])
    ),
    "offsets_are_text": lambda: _header(
        lambda header: header["class_bias"].update(data_offsets="0,16")
    ),
    "offsets_reversed": lambda: _header(
        lambda header: header["class_bias"].update(data_offsets=[16, 0])
    ),
    "offsets_three": lambda: _header(
        lambda header: header["class_bias"].update(data_offsets=[0, 16, 16])
    ),
    "tensors_overlap": lambda: _header(
        lambda header: header["class_weight"].update(data_offsets=[12, 76])
    ),
    "tensors_with_a_hole": lambda: _header(
        lambda header: header["class_bias"].update(data_offsets=[4, 20])
    ),
    "tensors_in_another_order": lambda: _header(
        lambda header: (
            header["class_weight"].update(data_offsets=[0, 64]),
            header["class_bias"].update(data_offsets=[64, 80]),
        )
    ),
    "dtype_f64": lambda: _header(lambda header: header["class_bias"].update(dtype="F64")),
    "dtype_f16": lambda: _header(lambda header: header["class_bias"].update(dtype="F16")),
    "dtype_in_lower_case": lambda: _header(lambda header: header["class_bias"].update(dtype="f32")),
    "tensor_with_an_unknown_key": lambda: _header(
        lambda header: header["class_bias"].update(strides=[4])
    ),
    "tensor_is_a_list": lambda: _header(lambda header: header.update(class_bias=[])),
    "tensor_named_like_a_path": lambda: _header(
        lambda header: header.update({"../class_bias": header.pop("class_bias")})
    ),
    "tensors_65": lambda: container(
        {
            "__metadata__": split(GOOD)[0]["__metadata__"],
            **{f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(65)},
        },
        b"",
    ),
}
for _name, _forge in _CONTAINER.items():
    _forge.__name__ = _name
    defect(2)(_forge)
