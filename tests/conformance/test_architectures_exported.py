"""Each family's graph: it computes what torch does, on every engine there is to ask.

The architectures that no test here exports differ from those in small things; they are compared
with timm in torch (test_architectures_equal_timm.py), and exported by the command that writes
docs/targets.md.
"""

import pytest

from tests.support.architectures import ARCHITECTURES
from tests.support.exported import (
    adapter_difference,
    build_engine,
    differences_on_oldest,
    export,
    exported,
    half_cosine,
    inside_difference,
    parity,
    source_of,
    static_difference,
)

SWEPT = [case for case in ARCHITECTURES if case.swept]
EVERY = pytest.mark.parametrize("case", SWEPT, ids=str)
BOTH = pytest.mark.parametrize("attention", ["joint", "prefix"])
TOLERANCE = 1e-4


def test_the_families_are_there():
    assert len(SWEPT) >= 14


@BOTH
@EVERY
def test_the_graph_computes_what_torch_does(case, attention, tmp_path):
    model = exported(case, attention)
    report = parity(model)
    assert {(row.batch, row.classes) for row in report.rows} == {
        (batch, classes) for batch in (1, 2, 5) for classes in (1, 2, 7, 100)
    }
    assert report.worst <= TOLERANCE
    assert report.sensitivity > 1e-2  # dropping a class moves the embedding
    assert inside_difference(model) <= TOLERANCE
    assert adapter_difference(model, tmp_path) <= TOLERANCE
    assert static_difference(model) <= TOLERANCE
    assert half_cosine(model) >= 0.9999


@BOTH
@EVERY
def test_tensorrt_for_rtx_builds_it_over_both_axes(case, attention):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu12 is not installed")
    engine = build_engine(exported(case, attention))
    assert engine.layers > 100
    assert len(engine.plan) > 100_000


def test_the_oldest_onnxruntime_computes_it_too(tmp_path):
    models = [exported(case, attention) for case in SWEPT for attention in ("joint", "prefix")]
    found = differences_on_oldest(models, tmp_path)
    assert len(found) == 2 * len(SWEPT)
    assert {name: worst for name, worst in found.items() if worst > TOLERANCE} == {}


@pytest.mark.slow
@BOTH
@EVERY
def test_a_second_export_gives_the_same_bytes(case, attention):
    assert export(source_of(case, attention)) == exported(case, attention).graph
