"""What a person may ask of an export's graphs: sizes, and what contradicts itself."""

import pytest
import typer

from pfm_edge.cli._export_graphs import parse_image_size
from pfm_edge.publishing import GraphRequest
from pfm_edge_exporters import ExportError


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
