"""A class out of an artefact: written again without it, exchanged at once, the old one erased.

Owns what a forget does to artefacts. Where the last class goes, so does everything but the
record, which says that there is none::

    erase_classes(Path("repository/digits"), {class_id})
"""

from collections.abc import Collection
from pathlib import Path

from pfm_edge_exporters.targets._copies import require_known, require_no_copy
from pfm_edge_exporters.targets._publish import publish
from pfm_edge_exporters.targets._registry import find_target
from pfm_edge_runtime.artefacts import RECORD_FILE, TargetRecord
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import ConfigError, PackageError
from pfm_edge_runtime.store import exclusive

__all__ = ["erase_classes"]


def erase_classes(
    directory: Path, gone: Collection[ClassId], *, noted: Collection[Path] = ()
) -> None:
    """Take classes out of an artefact; those that it does not hold are no error.

    Args:
        directory: The artefact.
        gone: Class ids.
        noted: The other artefacts that lose them; a further one beside this one is a copy.

    Raises:
        PackageError: It is damaged, so nobody knows what is in it; or somebody put something into
            it, or beside it, that may keep the classes. Nothing changed.
        StorageError: The disk refused; the artefact is as it was, or the new one is in place and
            the old one waits beside it for the next call.
    """
    with exclusive(directory.parent):
        record = TargetRecord.read(directory)
        if not any(each in gone for each in record.classes):
            return
        try:
            target = find_target(record.target)
        except ConfigError as error:
            raise PackageError(f"{directory / RECORD_FILE}: {error}") from error
        require_known(directory, record)
        holding = [each for each in record.files if target.is_class_file(each)]
        require_no_copy(directory, record, gone, class_files=holding, noted=noted)
        left = record.without(gone)
        fill = target.without(directory, record, gone) if left.classes else _nothing
        publish(directory, fill, left, overwrite=True, erasing=True, known=None)


def _nothing(staging: Path) -> None:
    """Write no file."""
