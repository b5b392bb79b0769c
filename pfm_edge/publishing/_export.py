"""`pfm-edge export` without its command line.

exported = export_run(Run.open(path), Path("model"), signers=keys)
exported.epoch, exported.sequence, exported.signers
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm_edge.erasing import redact
from pfm_edge.errors import RunError
from pfm_edge.publishing._graphs import GraphRequest
from pfm_edge.publishing._note import Note
from pfm_edge.publishing._source import bundle_factory, class_entries
from pfm_edge.registry import PackageRecord, Registry
from pfm_edge.training import Run, in_use, load_model
from pfm_edge_exporters import ExportReport, export_package, require_place
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.manifest import ModelId

__all__ = ["ExportedRun", "export_run"]

Progress = Callable[[str], None]
_ONE_GRAPH = GraphRequest()


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """A run that was exported.

    Attributes:
        report: What the exporter did.
        epoch: With `sequence`, the bundle's place in time: the pair only grows, by model.
        sequence: As `epoch`.
        signers: Key ids of those who signed the bundle.
    """

    report: ExportReport
    epoch: int
    sequence: int
    signers: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        place = {"epoch": self.epoch, "sequence": self.sequence}
        return {**self.report.as_dict(), **place, "signers": list(self.signers)}

    def summary(self) -> str:
        """Return one line for a person."""
        signed = ", ".join(f"{each[:16]}…" for each in self.signers)
        return f"{self.report.summary()}; bundle {self.epoch}.{self.sequence}, " + (
            f"signed by {signed}" if signed else "not signed"
        )


def _silent(stage: str) -> None:
    """Show nothing."""


def export_run(
    run: Run,
    out: Path,
    *,
    signers: Sequence[SigningKey] = (),
    overwrite: bool = False,
    graphs: GraphRequest = _ONE_GRAPH,
    progress: Progress = _silent,
) -> ExportedRun:
    """Export a run's selected model as a model package, whole or not at all.

    The registry learns of the package before it appears, so that a forget reaches it; of one that
    never appears, it forgets again.

    Args:
        run: what to export.
        out: where to.
        signers: who signs the bundle; with none it stays unsigned.
        overwrite: whether a package that is there may be replaced.
        graphs: which graphs besides the float32 one.
        progress: told the name of each stage.

    Raises:
        RunError: the run has no checkpoint, or holds a class that is on a forget list.
        ConfigError: the backbone cannot take images of that size, or `out` is in another package.
        DataError: accuracy is to be measured, and the run's images are not there.
        ExportError: a graph cannot be made, does not agree with torch, or loses too much.
        StorageError: what is at `out` may not be replaced, or the disk refused.
    """
    require_place(out, overwrite=overwrite)
    progress("loading the run")
    note = _Note(run, Path(os.path.realpath(out)))
    with in_use(run.path), note.withdrawn_on_failure():
        model = load_model(run)
        entries = class_entries(run, model)
        source, options = graphs.prepare(
            run, model, entries, overwrite=overwrite, progress=progress
        )
        del model  # the source has a copy, and one is enough for what comes
        bundle = bundle_factory(entries, note.take_place, signers)
        report = export_package(source, out, options, bundle=bundle, progress=progress)
        note.check_again()
    epoch, sequence = note.place
    return ExportedRun(report, epoch, sequence, tuple(each.key_id for each in signers))


class _Note(Note):
    """The note of one export in the registry, and what a forget meanwhile means for it."""

    def __init__(self, run: Run, package: Path) -> None:
        super().__init__(run.registry)
        self._run = run
        self._package = package
        self.place = (0, 0)

    def take_place(self, model_id: ModelId) -> tuple[int, int]:
        """Note the package, and take the next place of its model.

        Raises:
            RunError: a class of the run is on the forget list by now.
        """
        record = PackageRecord(self._package, model_id)

        def noted(known: Registry) -> Registry:
            self._require_none_forgotten(known)
            known, self.place = known.with_export(record)
            return known

        self.add(record, noted)
        return self.place

    def check_again(self) -> None:
        """Take out what another run's forget did not find yet, when the package was not there.

        Raises:
            RunError: there was something.
        """
        known = self.read_again()
        if set(self._run.class_ids) & set(known.forgotten):
            noted = [each.path for each in known.packages]
            redact(self._package, known.forgotten, noted=noted)
        self._require_none_forgotten(known)

    def _require_none_forgotten(self, known: Registry) -> None:
        if set(self._run.class_ids) & set(known.forgotten):
            raise RunError(
                f"{self._run.path}: a class was forgotten while it was exported; "
                f"pfm-edge forget {self._run.path} erases it, then export again"
            )
