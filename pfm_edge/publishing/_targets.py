"""From a model package to the artefact of a target, within the reach of a forget.

made = export_artefact(Path("model"), target, options, out=Path("repository"), run=Run.open(path))
made.path

An artefact that holds class tensors is noted in the registry of the run that its package came
from, before it appears: `pfm-edge forget` takes classes out of it as it does out of packages.
"""

import os
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pfm_edge.erasing import redact
from pfm_edge.errors import RunError
from pfm_edge.publishing._note import Note
from pfm_edge.registry import PackageRecord, Registry
from pfm_edge.training import Run, in_use
from pfm_edge_exporters.targets import BuildProgress, Target, TargetReport, export_target
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.package import ModelPackage

__all__ = ["export_artefact"]


def export_artefact(  # noqa: PLR0913 (each is a part of the request, all but three by keyword)
    package: Path,
    target: Target,
    options: Any,
    *,
    out: Path | None = None,
    run: Run | None = None,
    overwrite: bool = False,
    progress: BuildProgress = lambda _done, _phase: None,
) -> TargetReport:
    """Make an artefact of a model package, whole or not at all.

    Args:
        package: the package.
        target: what to make.
        options: an instance of the target's dataclass.
        out: where to; the target has a default.
        run: whose forget shall reach it; with none, only the user can, if it holds classes.
        overwrite: whether an artefact that is there may be replaced.
        progress: told the share of the work that is done, and the phase.

    Raises:
        RunError: the package is not of this run, or holds a class that is on its forget list.
        ConfigError: the options do not fit the package.
        ExportError: a library is missing, or the work failed.
        PackageError: the package is damaged.
        StorageError: something else is in the place, or the disk refused.
    """
    note = _Note(run) if run is not None and target.holds_classes else None
    with ExitStack() as stack:
        if run is not None:
            stack.enter_context(in_use(run.path))
        if note is not None:
            stack.enter_context(note.withdrawn_on_failure())
        report = export_target(
            package,
            target,
            options,
            out=out,
            overwrite=overwrite,
            progress=progress,
            **({} if note is None else {"announce": note.announce}),
        )
        if note is not None:
            note.check_again()
    return report


class _Note(Note):
    """The note of one artefact in a registry, and what a forget meanwhile means for it."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.registry)
        self._run = run
        self._path = Path()
        self._held: Collection[ClassId] = ()

    def announce(self, path: Path, package: ModelPackage) -> None:
        """Note the artefact.

        Raises:
            RunError: its package is not of this run, or holds a class that was forgotten.
        """
        self._path, self._held = Path(os.path.realpath(path)), package.bundle.class_ids
        record = PackageRecord(self._path, package.manifest.model_id)

        def noted(known: Registry) -> Registry:
            if record.model_id not in known.places:
                raise RunError(
                    f"{package.directory} was not exported from {self._run.path}: name the run "
                    "that it came from"
                )
            self._require_none_forgotten(known, package.directory)
            return known.with_artefact(record)

        self.add(record, noted)

    def check_again(self) -> None:
        """Take out what a forget did not find yet, when the artefact was not there.

        Raises:
            RunError: there was something.
        """
        known = self.read_again()
        if set(self._held) & set(known.forgotten):
            noted = [each.path for each in known.packages]
            redact(self._path, known.forgotten, noted=noted)
        self._require_none_forgotten(known, self._path)

    def _require_none_forgotten(self, known: Registry, where: Path) -> None:
        if set(self._held) & set(known.forgotten):
            raise RunError(
                f"{where}: a class in it was forgotten; pfm-edge forget {self._run.path} erases "
                "it, then export again"
            )
