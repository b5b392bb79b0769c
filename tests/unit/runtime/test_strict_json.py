"""JSON with one meaning per text, and bounded work to find it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    StrictJsonError,
    canonical,
    parse,
    parse_canonical,
)

_LIMITS = JsonLimits(max_bytes=100_000, max_depth=8, max_containers=1_000, max_values=5_000)

_REFUSED = {
    "empty": b"",
    "only_space": b"  ",
    "no_json": b"{a:1}",
    "two_values": b"{} {}",
    "byte_order_mark": b"\xef\xbb\xbf{}",
    "no_utf8": b'"\xff"',
    "overlong_utf8": b'"\xc0\xaf"',
    "surrogate_in_utf8": b'"\xed\xa0\x80"',
    "escaped_lone_surrogate": rb'"\ud800"',
    "escaped_lone_surrogate_as_key": rb'{"\udfff":1}',
    "duplicate_key": b'{"a":1,"a":1}',
    "duplicate_key_by_escape": rb'{"a":1,"\u0061":1}',
    "duplicate_key_deeper": b'[{"b":{"a":1,"a":2}}]',
    "nan": b"NaN",
    "infinity": b"[-Infinity]",
    "float_beyond_range": b"1e999",
    "integer_beyond_2_to_53": b"9007199254740992",
    "negative_integer_beyond_2_to_53": b"-9007199254740992",
    "integer_of_5000_digits": b"1" * 5_000,
    "control_character": b'"\x01"',
    "nine_levels": b"[" * 9 + b"]" * 9,
    "endless_depth": b"[" * 90_000,
    "endless_depth_behind_an_odd_backslash": rb'["\\\"' + b"[" * 9 + rb'",' + b"[" * 90_000,
    "too_many_containers": b"[" + b"{}," * 1_000 + b"{}]",
    "too_many_closing_brackets": b"[]" + b"]" * 2_000,
    "too_many_strings": b"[" + b'"",' * 5_000 + b'""]',
    "too_many_keys": b"{" + b",".join(b'"%d":1' % n for n in range(5_001)) + b"}",
    "too_many_numbers": b"[" + b"1," * 5_001 + b"1]",
    "too_long": b'"' + b"a" * 100_000 + b'"',
}


@pytest.mark.parametrize("data", _REFUSED.values(), ids=_REFUSED.keys())
def test_refuses(data: bytes) -> None:
    with pytest.raises(StrictJsonError) as caught:
        parse(data, _LIMITS)
    assert "\n" not in str(caught.value)


def test_brackets_inside_strings_do_not_count_as_depth() -> None:
    text = json.dumps({"a": ["[[[[[[[[[[", '\\"{{{{{{{{{{', "\\"]})
    assert parse(text.encode(), _LIMITS) == json.loads(text)


def test_what_is_inside_strings_does_not_count_as_values() -> None:
    text = json.dumps([",,,,,," * 1_000, '\\"\\",\\\\' * 1_000])
    assert parse(text.encode(), _LIMITS) == json.loads(text)


def test_floats_only_where_they_are_allowed() -> None:
    assert parse(b"[0.5,1e3]", _LIMITS) == [0.5, 1000.0]
    with pytest.raises(StrictJsonError, match="fraction"):
        parse(b"[0.5]", _LIMITS, floats=False)


_NOT_CANONICAL = {
    "space": b'{"a": 1}',
    "line_end": b'{"a":1}\n',
    "keys_out_of_order": b'{"b":1,"a":1}',
    "needless_escape": rb'"\u0061"',
    "escaped_solidus": rb'"\/"',
    "escaped_non_ascii": rb'"\u00e9"',
    "upper_case_escape": rb'"\u001F"',
    "negative_zero": b"-0",
    "float": b"1.0",
    "exponent": b"1e2",
}


@pytest.mark.parametrize("data", _NOT_CANONICAL.values(), ids=_NOT_CANONICAL.keys())
def test_refuses_a_second_spelling(data: bytes) -> None:
    with pytest.raises(StrictJsonError):
        parse_canonical(data, _LIMITS)


def test_canonical_form_is_that_of_rfc_8785() -> None:
    value = {"b": [1, True, None], "a": 'é\u2028"\\\n\x1f\u007f'}
    expected = '{"a":"é\u2028\\"\\\\\\n\\u001f\u007f","b":[1,true,null]}'
    assert canonical(value) == expected.encode()


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.text(st.characters(exclude_categories=["Cs"])),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    try:
        data = canonical(value)  # type: ignore[arg-type]
    except StrictJsonError:  # a key with half of a surrogate pair
        return
    assert parse_canonical(data, JsonLimits(max_depth=64)) == value


@given(st.binary(max_size=60))
def test_bytes_either_parse_or_raise_ours(data: bytes) -> None:
    try:
        value = parse(data, _LIMITS)
    except StrictJsonError:
        return
    assert json.loads(data) == value
