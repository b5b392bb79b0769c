"""The demo's picture: how forgetting was learnt, and what a forget did on the device."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pfm_edge.demo._comparison import Comparison
from pfm_edge_runtime.store import write_atomic

__all__ = ["draw"]

_RETAIN, _FORGET, _INK, _FAINT = "#1f6f8b", "#c8553d", "#222222", "#bbbbbb"


def draw(
    path: Path,
    epochs: Sequence[dict[str, Any]],
    comparison: Comparison,
    labels: Sequence[str],
    forgotten: str,
) -> None:
    """Draw accuracy by epoch and the device's confusion before and after; PNG, 1,650 x 600 pixels.

    Args:
        path: where the PNG goes, replaced whole.
        epochs: epoch records of the metrics log.
        comparison: what the device saw.
        labels: in the order of the confusion's rows.
        forgotten: the label that was forgotten.

    Raises:
        StorageError: the disk refused.
    """
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(16.5, 6.0), dpi=100, layout="constrained")
        curves, before, after = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
        _draw_curves(curves, epochs, chance=1.0 / len(labels))
        _draw_confusion(before, comparison.confusion_before, labels, "On the device, before")
        title = f"On the device, after forgetting '{forgotten}'"
        _draw_confusion(after, comparison.confusion_after, labels, title, forgotten)
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())


def _draw_curves(axes: Axes, epochs: Sequence[dict[str, Any]], *, chance: float) -> None:
    x = [record["epoch"] for record in epochs]
    for key, label, colour in (
        ("retain_accuracy", "retain: another class's prompt removed", _RETAIN),
        ("forget_accuracy", "forget: the image's own prompt removed", _FORGET),
    ):
        axes.plot(x, [record[key] for record in epochs], color=colour, linewidth=2, label=label)
    axes.axhline(chance, color=_FAINT, linestyle="--", linewidth=1)
    axes.annotate(
        "chance", (x[-1], chance), (0, 3), textcoords="offset points", color="#888888", ha="right"
    )
    scored = [record for record in epochs if "selection_score" in record]
    if scored:
        kept = max(scored, key=lambda record: float(record["selection_score"]))["epoch"]
        axes.axvline(kept, color=_INK, linestyle=":", linewidth=1)
        axes.annotate(
            "kept", (kept, 1.0), (-4, -14), textcoords="offset points", color=_INK, ha="right"
        )
    axes.set(xlabel="epoch", ylabel="accuracy on held-out images", ylim=(0, 1.02))
    axes.set_title("Learning to know, and to forget", loc="left", color=_INK)
    axes.legend(loc="center right", facecolor="white", edgecolor="none", framealpha=1)


def _draw_confusion(
    axes: Axes,
    counts: Sequence[Sequence[int]],
    labels: Sequence[str],
    title: str,
    forgotten: str | None = None,
) -> None:
    matrix = np.array(counts)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix > 0):
        colour = "white" if share[row, column] > 0.5 else _INK  # noqa: PLR2004 (half dark)
        axes.text(column, row, matrix[row, column], ha="center", va="center", color=colour, size=9)
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="named by the device", ylabel="true class")
    axes.set_title(title, loc="left", color=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if forgotten is not None:
        place = list(labels).index(forgotten)
        for tick in (axes.get_xticklabels()[place], axes.get_yticklabels()[place]):
            tick.set_color(_FORGET)
            tick.set_fontweight("bold")
        axes.axvline(place, color=_FORGET, linewidth=14, alpha=0.12)
        axes.axhspan(place - 0.5, place + 0.5, fill=False, edgecolor=_FORGET, linewidth=2)
