"""The options of `pfm-edge export` that say which graphs a model package holds.

Owns their words; `pfm_edge.publishing.GraphRequest` owns what they mean together.
"""

import re
from enum import StrEnum
from typing import Annotated

import typer

__all__ = [
    "Batch",
    "CalibrationImages",
    "FoldNormalization",
    "Force",
    "FurtherPrecision",
    "ImageSize",
    "MaxAccuracyDrop",
    "MaxClasses",
    "Opset23",
    "Precisions",
    "Static",
    "parse_image_size",
]

_SIZE = re.compile(r"[1-9][0-9]{0,5}")


class FurtherPrecision(StrEnum):
    """What a graph may compute in, besides float32."""

    FP16 = "fp16"
    INT8 = "int8"


Precisions = Annotated[
    list[FurtherPrecision] | None,
    typer.Option(
        "--precision",
        metavar="fp16|int8",
        help="Add a graph in half precision, or in eight bits for CPUs; may be repeated.",
    ),
]
Static = Annotated[
    bool,
    typer.Option("--static", help="Add a graph of a fixed number of classes, in each precision."),
]
MaxClasses = Annotated[
    int | None,
    typer.Option(metavar="N", help="Room of static graphs; the run's classes by default.", min=1),
]
Batch = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Images that a static graph takes; any number by default.", min=1
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(metavar="PIXELS", help="Export for other images: 448, or 448x320 (high x wide)."),
]
FoldNormalization = Annotated[
    bool, typer.Option("--fold-normalization", help="Take pixels: the graph normalises them.")
]
Opset23 = Annotated[
    bool, typer.Option("--opset23", help="Add a graph of opset 23, attention in one node.")
]
CalibrationImages = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="DIR|train",
        help="Measure int8 ranges once, on these images or the run's own; else each run does.",
    ),
]
MaxAccuracyDrop = Annotated[
    float,
    typer.Option(metavar="POINTS", help="Held-out accuracy that may be lost.", min=0, max=100),
]
Force = Annotated[
    bool, typer.Option("--force", help="Keep int8 and opset 23 graphs that are slow here.")
]


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """Read "448" or "448x320": height and width.

    Raises:
        BadParameter: it is neither.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    # Not by int() of whatever is given: it refuses thousands of digits with an error of its own.
    if len(parts) > 2 or not all(_SIZE.fullmatch(each) for each in parts):  # noqa: PLR2004
        raise typer.BadParameter(f"'{text:.80}' is no size: --image-size 448, or 448x320")
    return int(parts[0]), int(parts[-1])
