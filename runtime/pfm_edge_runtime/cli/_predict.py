"""``pfm-device predict``: what the model sees in images."""

import argparse

from pfm_edge_runtime.cli._arguments import (
    Commands,
    add_command,
    add_image_arguments,
    batches,
    find_images,
    open_classifier,
)
from pfm_edge_runtime.cli._output import write_json, write_row
from pfm_edge_runtime.cli._progress import Progress

__all__ = ["add_to"]

_EXAMPLE = """\
  pfm-device predict model/ photo.jpg
  pfm-device predict model/ photos/ --json
  pfm-device predict model/ photo.jpg --precision fp16
"""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "predict",
        "Predict the class of images: file, label and score, one line each.",
        _EXAMPLE,
        _run,
    )
    add_image_arguments(parser)


def _run(arguments: argparse.Namespace) -> None:
    files = find_images(arguments.images)
    model = open_classifier(arguments)
    rows: list[dict[str, object]] = []
    with Progress("predicted", len(files)) as progress:
        for batch in batches(files):
            for file, found in zip(batch, model.predict(list(batch)), strict=True):
                if not arguments.json:
                    write_row(str(file), found.label, f"{found.score:.4f}")
                row = {"class_id": found.class_id, "label": found.label, "score": found.score}
                rows.append({"image": str(file), **row})
            progress.advance(len(batch))
    if arguments.json:
        write_json({"predictions": rows})
