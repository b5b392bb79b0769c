"""Bundles that must be refused: one named defect each, and the step that must find it.

The statement of every forged bundle is made to agree with the rest, as far as the defect allows:
there is no signature yet, so nothing here may lean on one.
"""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tests.hostile.defects.container
import tests.hostile.defects.rows
import tests.hostile.defects.statement  # noqa: F401 (they enter their defects into the table)
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.errors import BundleError
from tests.hostile.defects.table import DEFECTS, GOOD
from tests.support.forge import Forge


def test_the_forger_spells_a_good_bundle_as_we_do() -> None:
    """Otherwise every defect below might be refused for the forger's own mistakes."""
    parts = Forge(GOOD)
    parts.seal()
    assert parts.spell() == GOOD
    assert parts.spell_metadata() == GOOD
    assert Bundle.from_bytes(GOOD).to_bytes() == GOOD


def test_the_table_covers_every_step_of_an_unbound_bundle() -> None:
    assert {step for step, _ in DEFECTS.values()} == {1, 2, 4, 6, 7, 8, 9}


@pytest.mark.parametrize(("step", "forge"), DEFECTS.values(), ids=DEFECTS.keys())
def test_refused_by_the_step_that_is_there_for_it(step: int, forge: Callable[[], bytes]) -> None:
    data = forge()
    assert data != GOOD
    with pytest.raises(BundleError) as caught:
        Bundle.from_bytes(data)
    message = str(caught.value)
    assert message.startswith(f"step {step}: ")
    assert "\n" not in message
    assert "daisy" not in message


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
