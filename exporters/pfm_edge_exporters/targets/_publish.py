"""An artefact's directory: filled beside its place, exchanged at once, what it replaces erased.

Owns how artefacts reach the disk and leave it::

    publish(Path("repository/digits"), fill, record, overwrite=True, erasing=True)

``target.json`` is the first file that is written, so that whatever a killed process left can be
told from other directories.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from pfm_edge_exporters._places import artefact_files, erase_tree, files_below
from pfm_edge_runtime.artefacts import RECORD_FILE, TargetRecord
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.store import Known, staged_directory

__all__ = ["Fill", "publish"]

Fill: TypeAlias = Callable[[Path], None]
"""Writes the files of an artefact into an empty directory."""


def publish(
    out: Path,
    fill: Fill,
    record: TargetRecord,
    *,
    overwrite: bool,
    erasing: bool,
    known: Known | None = artefact_files,
) -> dict[str, int]:
    """Write an artefact, whole or not at all, and erase the one that was there.

    Args:
        out: Its directory.
        fill: Writes its files.
        record: What to say of it; the digests of the files are added.
        overwrite: Whether an artefact that is there may be replaced.
        erasing: Whether its bytes are overwritten, because they hold classes.
        known: Gives the files that may go with it; ``None`` lets all of them.

    Returns:
        The size of every file in bytes, by its path in the directory.

    Raises:
        StorageError: Something else is there, or the disk refused.
    """
    discard = erase_tree if erasing else shutil.rmtree
    with staged_directory(
        out, overwrite=overwrite, marker=RECORD_FILE, known=known, discard=discard
    ) as staging:
        (staging / RECORD_FILE).write_bytes(record.to_bytes())
        fill(staging)
        files = {
            path.relative_to(staging).as_posix(): digest_of(path.read_bytes())
            for path in files_below(staging)
            if path != staging / RECORD_FILE
        }
        (staging / RECORD_FILE).write_bytes(replace(record, files=files).to_bytes())
        return {
            path.relative_to(staging).as_posix(): path.stat().st_size
            for path in files_below(staging)
        }
