"""docs/targets.md says what the code does; its figures come from `benchmarks.targets_table`."""

from benchmarks.targets_table import PAGE
from pfm_edge.model import NAMES, WHY_NOT
from tests.support.architectures import ARCHITECTURES


def test_the_page_has_every_architecture_both_ways_and_every_reason():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    listed = [tuple(cells) for cells in tables if len(cells) == 3]
    assert listed[2:] == [(each.name, f"`{each.model}`", each.covers) for each in ARCHITECTURES]
    refused = [tuple(cells) for cells in tables if len(cells) == 2]
    assert refused[2:] == [(f"`{name}`", reason) for name, reason in WHY_NOT.items()]
    verified = [tuple(cells[:2]) for cells in tables if len(cells) > 3]
    assert verified[2:] == [(e.name, kind) for e in ARCHITECTURES for kind in ("joint", "prefix")]
    text = " ".join(lines)
    assert all(f"`{name}`" in text for name in NAMES)
