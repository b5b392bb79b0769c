"""Bundles that must be refused: one named defect each, and the step that must find it.

The statement of every forged bundle is made to agree with the rest, as far as the defect allows, so
that nothing but the step named can be what finds it.
"""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pfm_edge_runtime.bundle import Bundle, Expectation, VerifiedBundle
from pfm_edge_runtime.errors import BundleError, BundleFormatError, VerificationError
from tests.hostile.defects.complete import DEFECTS, DEVICE_DEFECTS
from tests.hostile.defects.device import MANAGED, TWO_OF_TWO
from tests.hostile.defects.table import FIRST_USE, GOOD
from tests.support.forge import ISSUER, SECOND, Forge
from tests.support.tiny_package import LABELS


def test_the_forger_spells_a_good_bundle_as_we_do() -> None:
    """Otherwise every defect below might be refused for the forger's own mistakes."""
    parts = Forge(GOOD)
    parts.seal()
    assert parts.spell() == GOOD
    assert parts.spell_metadata() == GOOD
    assert Bundle.from_bytes(GOOD).to_bytes() == GOOD


def test_the_forger_signs_as_we_do() -> None:
    parts = Forge(GOOD)
    parts.sign(ISSUER, SECOND)
    signed = parts.spell()
    for expectation in (FIRST_USE, MANAGED, TWO_OF_TWO):
        assert VerifiedBundle.from_bytes(signed, expectation).to_bytes() == signed


def test_the_tables_cover_every_step_that_refuses() -> None:
    assert {step for step, _ in DEFECTS.values()} == {1, 2, 4, 6, 7, 8, 9}
    assert {step for step, _ in DEVICE_DEFECTS.values()} == {3, 4, 5, 6, 8, 9, 11}
    assert not DEFECTS.keys() & DEVICE_DEFECTS.keys()
    assert len(DEFECTS) + len(DEVICE_DEFECTS) > 200


def _require_refusal(error: BundleError, step: int) -> None:
    message = str(error)
    assert error.step == step
    assert message.startswith(f"step {step}: ")
    assert "; " in message, "no fix"
    assert message.isprintable()
    assert len(message) < 500
    assert not any(label in message for label in LABELS)
    assert type(error) in {BundleFormatError, VerificationError}


@pytest.mark.parametrize(("step", "forge"), DEFECTS.values(), ids=DEFECTS.keys())
def test_refused_by_the_step_that_is_there_for_it(step: int, forge: Callable[[], bytes]) -> None:
    data = forge()
    assert data != GOOD
    with pytest.raises(BundleError) as caught:
        Bundle.from_bytes(data)
    _require_refusal(caught.value, step)
    with pytest.raises(BundleError) as caught:
        VerifiedBundle.from_bytes(bytearray(data), FIRST_USE)
    _require_refusal(caught.value, step)


@pytest.mark.parametrize(("step", "forge"), DEVICE_DEFECTS.values(), ids=DEVICE_DEFECTS.keys())
def test_refused_by_a_device_that_knows_better(
    step: int, forge: Callable[[], tuple[bytes, Expectation]]
) -> None:
    data, expectation = forge()
    with pytest.raises(BundleError) as caught:
        VerifiedBundle.from_bytes(data, expectation)
    _require_refusal(caught.value, step)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3)
)
@example([(GOOD.index(b'"class_bias"') + 1, ord("C"))])
def test_bytes_at_random_are_refused_or_mean_what_they_say(edits: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for position, value in edits:
        data[position] = value
    try:
        bundle = Bundle.from_bytes(bytes(data))
    except BundleError:
        return
    assert bundle.to_bytes() == data  # one content, one spelling


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.binary(max_size=8))
def test_pieces_cut_out_or_put_in_are_refused(begin: int, end: int, piece: bytes) -> None:
    data = GOOD[:begin] + piece + GOOD[end:]
    if data == GOOD:
        return
    try:
        assert Bundle.from_bytes(data).to_bytes() == data
    except BundleError:
        return
