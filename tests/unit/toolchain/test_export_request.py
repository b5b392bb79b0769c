"""What a person may ask of an export's graphs: sizes, and what contradicts itself."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from pfm_edge.cli._export_graphs import parse_image_size
from pfm_edge.config import BackboneConfig
from pfm_edge.model import require_static_memory
from pfm_edge.publishing import GraphRequest
from pfm_edge_exporters import ExportError
from pfm_edge_runtime.errors import ConfigError


def test_a_size_is_read():
    assert parse_image_size(None) is None
    assert parse_image_size("448") == (448, 448)
    assert parse_image_size("448X320") == (448, 320)


@pytest.mark.parametrize(
    "text", ["", "0", "-8", "8x", "x8", "8x8x8", "8.5", " 8", "\u0668", "9" * 7, "9" * 5000]
)
def test_what_is_no_size_is_one_short_line(text):
    with pytest.raises(typer.BadParameter, match="is no size: --image-size 448") as caught:
        parse_image_size(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"max_classes": 8}, "--max-classes fixes a static graph: add --static"),
        ({"batch": 2}, "--batch fixes a static graph: add --static"),
        ({"calibration": "train"}, "--calibration is for int8"),
        ({"calibration": "", "precisions": ("int8",)}, "--calibration names no folder"),
    ],
)
def test_what_makes_no_sense_together_is_refused(request_, words):
    with pytest.raises(ExportError, match=words):
        GraphRequest(**request_)


@pytest.mark.parametrize(
    ("kind", "sizes", "fix"),
    [
        ("joint", {"capacity": 60_000, "batch": None}, "lower --max-classes"),
        ("joint", {"capacity": 60_000, "batch": 2}, "lower --max-classes"),
        ("joint", {"capacity": 2_000, "batch": 60_000}, "lower --batch"),
        ("prefix", {"capacity": 2_000, "batch": 10**7}, "lower --batch"),
    ],
)
def test_a_static_graph_beyond_this_machine_is_refused_before_the_work(
    make_model, monkeypatch, kind, sizes, fix
):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 6 * 10**6}.get)
    monkeypatch.setattr("pfm_edge.model._memory._OWN_GROUPS", Path("/none"))
    backbone = make_model(kind).backbone
    with pytest.raises(ConfigError, match=f"GB of memory where there are 25; {fix}") as caught:
        require_static_memory(backbone, kind, **sizes)
    assert f"a static graph for {sizes['capacity']:,} classes" in str(caught.value)
    require_static_memory(backbone, "prefix", capacity=10_000, batch=64)


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "3000000000"}),
        ("0::/", {"memory.max": "3000000000"}),
        ("5:cpu:/\n4:pids,memory:/docker/c", {"memory/memory.limit_in_bytes": "3000000000"}),
    ],
    ids=["a group above", "a container", "a container of version 1"],
)
def test_a_container_has_the_memory_that_its_group_allows(
    make_model, monkeypatch, tmp_path, group, files
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"{group}\n")
    monkeypatch.setattr("pfm_edge.model._memory._GROUPS", tmp_path)
    monkeypatch.setattr("pfm_edge.model._memory._OWN_GROUPS", tmp_path / "own")
    with pytest.raises(ConfigError, match="GB of memory where there are 3; lower"):
        require_static_memory(make_model("joint").backbone, "joint", capacity=60_000, batch=None)


def test_a_request_is_judged_with_its_sizes(make_model, monkeypatch):
    """The room is the run's number of classes where nobody says another."""
    asked = []
    monkeypatch.setattr(
        "pfm_edge.publishing._graphs.require_static_memory",
        lambda _, kind, **sizes: asked.append((kind, sizes)),
    )
    config = BackboneConfig(model="vit_tiny_patch16_224")
    run = SimpleNamespace(config=SimpleNamespace(backbone=config))
    for request in (GraphRequest(), GraphRequest(static=True), GraphRequest(static=True, batch=3)):
        request.prepare(run, make_model("joint"), [], overwrite=False, progress=print)
    (classes,) = {sizes["capacity"] for _, sizes in asked}
    assert asked == [
        ("joint", {"capacity": classes, "batch": None}),
        ("joint", {"capacity": classes, "batch": 3}),
    ]
