"""``pfm-device embed``: the vectors that the model makes of images."""

import argparse
import io
from pathlib import Path

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
  pfm-device embed model/ photo.jpg --json
  pfm-device embed model/ photos/ --out embeddings.npy
"""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "embed",
        "Compute the embedding of images, as JSON (the default) or as a NumPy file.",
        _EXAMPLE,
        _run,
    )
    add_image_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.npy",
        help="write float32 [images, width] to this file, in the order of the images",
    )


def _run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from pfm_edge_runtime.store import write_atomic

    files = find_images(arguments.images)
    model = open_classifier(arguments)
    found = []
    with Progress("embedded", len(files)) as progress:
        for batch in batches(files):
            found.append(model.embed(list(batch)))
            progress.advance(len(batch))
    embeddings = np.concatenate(found)
    if arguments.out is not None:
        buffer = io.BytesIO()
        np.save(buffer, embeddings, allow_pickle=False)
        write_atomic(arguments.out, buffer.getvalue())
    if arguments.json or arguments.out is None:
        rows = zip(files, embeddings.tolist(), strict=True)
        write_json({"embeddings": [{"image": str(file), "embedding": row} for file, row in rows]})
    else:
        write_row(f"wrote {len(files)} embeddings of width {embeddings.shape[1]}: {arguments.out}")
