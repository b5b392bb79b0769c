"""The fuzzer, briefly; and that it would notice a reader that leaves a check out."""

import json
from collections.abc import Callable
from unittest import mock

import pytest

from pfm_edge_runtime.bundle import _container, _verification
from tests.fuzz.__main__ import run

_MUTANTS = 3_000


def test_a_short_run() -> None:
    outcomes = run(range(_MUTANTS), seed=0)
    assert outcomes.total() == _MUTANTS
    refused = {name for name in outcomes if name.startswith("refused")}
    assert refused == {f"refused by step {step}" for step in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11)}
    assert len(outcomes) - len(refused) >= 4


def _lenient(data: bytes, limits: object) -> object:
    return json.loads(data)


_LEFT_OUT: dict[str, tuple[object, str, Callable[..., object]]] = {
    "canonical JSON": (_container, "parse_canonical", _lenient),
    "signatures": (_verification, "_require_signatures", lambda *_: frozenset()),
    "the binding": (_verification, "_require_binding", lambda *_: None),
    "row digests": (_verification, "_require_row_digests", lambda *_: None),
    "finite values": (_verification, "_require_finite", lambda *_: None),
    "purging": (_verification, "_purge", lambda parts, device: (parts, ())),
    "absences": (_verification, "_require_absences", lambda *_: None),
}


@pytest.mark.parametrize(
    ("module", "name", "instead"), _LEFT_OUT.values(), ids=[f"without {each}" for each in _LEFT_OUT]
)
def test_notices_a_reader_without(
    module: object, name: str, instead: Callable[..., object]
) -> None:
    with (
        mock.patch.object(module, name, instead),
        pytest.raises(AssertionError, match=r"mutant \d+ of seed 0"),
    ):
        run(range(_MUTANTS), seed=0)
