"""Steps 6 to 9: the entries and their rows."""

import base64
import json
from collections.abc import Callable

import numpy as np

from tests.hostile.defects.table import GOOD, defect, edited
from tests.support.containers import compact
from tests.support.forge import Forge, base64url


# --- Step 6: the entries
def _entry_texts(edit: Callable[[list[str]], list[str]]) -> Callable[[], bytes]:
    def forge() -> bytes:
        parts = Forge(GOOD)
        texts = edit(parts.texts())
        return parts.spell_metadata(entries=compact(texts).decode())

    return forge


def _entry(edit: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    return _entry_texts(
        lambda texts: [
            base64url(edit(base64.urlsafe_b64decode(texts[0] + "=" * (-len(texts[0]) % 4)))),
            *texts[1:],
        ]
    )


def _in_the_standard_alphabet(texts: list[str]) -> list[str]:
    parts = Forge(GOOD).entries[0]
    for salt in range(10_000):
        respelt = base64url(compact([f"{salt:032x}", parts[1], "ÿ~ÿ?ÿ>", parts[3]]))
        if "-" in respelt or "_" in respelt:
            return [respelt.replace("-", "+").replace("_", "/"), *texts[1:]]
    raise AssertionError("no entry needs the alphabet's last two characters")


_ENTRIES: dict[str, Callable[[], bytes]] = {
    "entry_padded": _entry_texts(lambda texts: [texts[0] + "=", *texts[1:]]),
    "entry_empty": _entry_texts(lambda texts: ["", *texts[1:]]),
    "entry_in_the_standard_alphabet": _entry_texts(_in_the_standard_alphabet),
    "entry_with_a_line_end": _entry_texts(lambda texts: [texts[0] + "\n", *texts[1:]]),
    "entry_with_white_space": _entry(lambda data: data.replace(b",", b", ", 1)),
    "entry_escaped": _entry(lambda data: data.replace(b"daisy", rb"d\u0061isy")),
    "entry_no_utf8": _entry(lambda data: data.replace(b"daisy", b"\xff\xff\xff\xff\xff")),
    "entry_an_object": _entry(lambda data: b"{}"),
    "entry_of_three_parts": _entry(lambda data: compact(json.loads(data)[:3])),
    "entry_of_five_parts": _entry(lambda data: compact([*json.loads(data), "x"])),
    "entry_with_a_number": _entry(lambda data: compact([1, *json.loads(data)[1:]])),
    "entry_twice": _entry_texts(lambda texts: [texts[0], *texts]),
    "entries_reordered": _entry_texts(lambda texts: texts[::-1]),
    "entries_10001": _entry_texts(lambda texts: texts * 2_501),
}
for _name, _forge in _ENTRIES.items():

    def _respelt(_forge: Callable[[], bytes] = _forge) -> bytes:
        return _forge()

    _respelt.__name__ = _name
    defect(6)(_respelt)


@defect(6)
def entry_of_another_bundle() -> bytes:
    parts, other = Forge(GOOD), Forge(GOOD)
    other.entries[0][0] = "f" * 32  # the same class, salted anew
    return parts.spell_metadata(entries=compact([other.texts()[0], *parts.texts()[1:]]).decode())


def _set_part(part: int, value: str) -> Callable[[Forge], None]:
    def edit(forge: Forge) -> None:
        forge.entries[0][part] = value

    return edit


edited(6, "salt_short", _set_part(0, "0" * 31))
edited(6, "salt_in_upper_case", _set_part(0, "A" * 32))
edited(6, "class_id_short", _set_part(1, "0" * 31))
edited(6, "class_id_in_upper_case", _set_part(1, "A" * 32))
edited(6, "class_id_in_wide_digits", _set_part(1, "\uff10" * 32))
edited(6, "class_id_of_the_next", lambda forge: _set_part(1, forge.entries[1][1])(forge))
edited(6, "class_id_after_the_next", _set_part(1, "f" * 32))
edited(6, "label_empty", _set_part(2, ""))
edited(6, "label_of_the_next", lambda forge: _set_part(2, forge.entries[1][2])(forge))
edited(6, "label_not_in_normal_form", _set_part(2, "e\u0301"))
edited(6, "label_with_an_escape_sequence", _set_part(2, "\x1b[2J"))
edited(6, "label_of_1025_bytes", _set_part(2, "x" * 1025))
edited(6, "digest_not_listed", _set_part(2, "peony"), seal=False)


# --- Steps 7 to 9: the rows


def _drop_rows(forge: Forge) -> None:
    forge.tensors = {name: tensor[:-1] for name, tensor in forge.tensors.items()}


def _drop_one_row(forge: Forge) -> None:
    forge.tensors["class_bias"] = forge.tensors["class_bias"][:-1]


def _add_rows(forge: Forge) -> None:
    forge.tensors = {
        name: np.concatenate([tensor, tensor[:1]]) for name, tensor in forge.tensors.items()
    }


def _add_tensor(forge: Forge) -> None:
    forge.tensors["zzz"] = forge.tensors["class_bias"]


def _rename_tensor(forge: Forge) -> None:
    forge.tensors["class_shift"] = forge.tensors.pop("class_bias")


def _flatten_tensor(forge: Forge) -> None:
    forge.tensors["prompt_values"] = forge.tensors["prompt_values"].reshape(4, 8)


def _move_class_axis(forge: Forge) -> None:
    forge.tensors["prompt_values"] = np.moveaxis(forge.tensors["prompt_values"], 0, 1).copy()


def _empty_all(forge: Forge) -> None:
    forge.tensors = {name: tensor[:0] for name, tensor in forge.tensors.items()}


edited(7, "rows_dropped_with_entries_kept", _drop_rows, seal=False)
edited(7, "row_dropped_in_one_tensor", _drop_one_row, seal=False)
edited(7, "row_doubled_at_the_end", _add_rows)
edited(7, "tensor_that_no_input_names", _add_tensor)
edited(7, "tensor_renamed", _rename_tensor, seal=False)
edited(7, "tensor_of_another_shape", _flatten_tensor)
edited(7, "tensor_with_the_class_axis_elsewhere", _move_class_axis, seal=False)
edited(7, "tensors_of_zero_size", _empty_all, seal=False)


@defect(7)
def entry_dropped_with_rows_kept() -> bytes:
    parts = Forge(GOOD)
    del parts.entries[0]
    return parts.spell()


def swap_rows(forge: Forge) -> None:
    for tensor in forge.tensors.values():
        tensor[[0, 1]] = tensor[[1, 0]]


def _swap_rows_of_one_tensor(forge: Forge) -> None:
    forge.tensors["class_weight"][[2, 3]] = forge.tensors["class_weight"][[3, 2]]


def _double_row(forge: Forge) -> None:
    for tensor in forge.tensors.values():
        tensor[1] = tensor[0]


def _flip_a_sign(forge: Forge) -> None:
    weight = forge.tensors["class_weight"]
    weight[0] = np.copysign(weight[0], -1)  # 0 and -0 are equal, their bytes are not


def _reorder_inputs(forge: Forge) -> None:
    forge.payload["inputs"].reverse()


edited(8, "rows_swapped", swap_rows, seal=False)
edited(8, "rows_swapped_in_one_tensor", _swap_rows_of_one_tensor, seal=False)
edited(8, "row_doubled_over_the_next", _double_row, seal=False)
edited(8, "row_with_negative_zeros", _flip_a_sign, seal=False)
edited(8, "inputs_in_another_order_than_digested", _reorder_inputs, seal=False)


def set_value(value: float) -> Callable[[Forge], None]:
    def edit(forge: Forge) -> None:
        forge.tensors["prompt_values"][3, 1, 2] = value

    return edit


def _signalling_nan(forge: Forge) -> None:
    forge.tensors["class_bias"].view(np.uint32)[2] = 0x7F800001


edited(9, "value_nan", set_value(np.nan))
edited(9, "value_infinity", set_value(np.inf))
edited(9, "value_negative_infinity", set_value(-np.inf))
edited(9, "value_signalling_nan", _signalling_nan)
