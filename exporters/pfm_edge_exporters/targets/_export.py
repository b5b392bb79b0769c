"""A model package to an artefact of a target: checked, made, recorded, published whole or not.

Owns the order of the work::

    target = find_target("tensorrt-rtx")
    report = export_target(Path("model"), target, target.options())
    report.path

All of the work is done in memory. Only then is a directory filled beside its place and exchanged
for what was there: a build that fails, or is killed, leaves nothing.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pfm_edge_exporters._build_progress import BuildProgress
from pfm_edge_exporters._places import artefact_files, require_outside
from pfm_edge_exporters.targets._class_data import class_axes
from pfm_edge_exporters.targets._options import as_texts
from pfm_edge_exporters.targets._publish import publish
from pfm_edge_exporters.targets._target import Draft, Job, Target, versions
from pfm_edge_runtime.artefacts import RECORD_FILE, TargetRecord
from pfm_edge_runtime.manifest import MANIFEST_FILE, ModelId
from pfm_edge_runtime.package import ModelPackage, require_directory
from pfm_edge_runtime.store import require_replaceable

__all__ = ["Announce", "TargetReport", "export_target"]

Announce = Callable[[Path, ModelPackage], None]
"""Told the directory of an artefact, and the package, before the artefact appears."""


@dataclass(frozen=True, slots=True)
class TargetReport:
    """What an export to a target did.

    Attributes:
        target: Name of the target.
        path: The artefact's directory.
        model_id: The model in it.
        sizes: Bytes of each file, by its path in the directory.
        seconds: How long it took.
        facts: What else is worth telling.
    """

    target: str
    path: Path
    model_id: ModelId
    sizes: Mapping[str, int]
    seconds: float
    facts: Mapping[str, str | int | float]

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        return {
            "target": self.target,
            "path": str(self.path),
            "model_id": self.model_id,
            "sizes": dict(self.sizes),
            "seconds": round(self.seconds, 3),
            **self.facts,
        }

    def summary(self) -> str:
        """Return one line for a person."""
        size = sum(self.sizes.values()) / 1e6
        facts = ", ".join(f"{name.replace('_', ' ')} {each}" for name, each in self.facts.items())
        return (
            f"{self.path}: {self.target}, {len(self.sizes)} files, {size:.1f} MB, in "
            f"{self.seconds:.1f} s; {facts}"
        )


def _silent(done: float, phase: str) -> None:
    """Show nothing."""


def _unannounced(path: Path, package: ModelPackage) -> None:
    """Tell nobody."""


def export_target(  # noqa: PLR0913 (each is a part of the request, all but three by keyword)
    directory: Path,
    target: Target,
    options: Any,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    announce: Announce = _unannounced,
    progress: BuildProgress = _silent,
) -> TargetReport:
    """Make an artefact of a model package.

    Args:
        directory: The package.
        target: What to make.
        options: An instance of the target's dataclass.
        out: Where to; the target has a default.
        overwrite: Whether an artefact that is there may be replaced.
        announce: Called before the artefact appears; what it raises stops that.
        progress: Told how far the work is.

    Raises:
        ConfigError: The options do not fit the package, or the artefact's place cannot be.
        ExportError: A library is missing, or the work failed.
        PackageError: The package is damaged.
        BundleError: Its bundle is damaged.
        StorageError: Something else is in the place, or the disk refused.
    """
    begin = time.perf_counter()
    require_directory(directory)
    target.check()
    place = _place(directory, target, options, out)
    require_replaceable(place, overwrite=overwrite, marker=RECORD_FILE, known=artefact_files)
    package = ModelPackage.open(directory)
    draft = target.make(Job(package, options, progress))
    record = _record(target, package, options, draft)
    announce(place, package)
    progress(1.0, "publishing")
    sizes = publish(place, draft.fill, record, overwrite=overwrite, erasing=target.holds_classes)
    return TargetReport(
        target=target.name,
        path=place,
        model_id=package.manifest.model_id,
        sizes=MappingProxyType(sizes),
        seconds=time.perf_counter() - begin,
        facts=draft.facts,
    )


def _place(directory: Path, target: Target, options: Any, out: Path | None) -> Path:
    package = directory.absolute()
    place = target.place(out or target.default_out(directory, options), package, options)
    require_outside(Path(os.path.realpath(place)), packages=target.holds_classes)
    return place


def _record(target: Target, package: ModelPackage, options: Any, draft: Draft) -> TargetRecord:
    inputs = {MANIFEST_FILE: package.manifest_digest}
    if draft.variant is not None:
        inputs[draft.variant.file] = package.manifest.files[draft.variant.file]
    if target.holds_classes:
        inputs["bundle statement"] = package.bundle.statement_digest
    return TargetRecord(
        target=target.name,
        model_id=package.manifest.model_id,
        inputs=inputs,
        made_with={**versions("pfm-edge-exporters", "pfm-edge-runtime"), **draft.made_with},
        options=as_texts(options),
        classes=package.bundle.class_ids if target.holds_classes else (),
        class_axes=class_axes(package) if target.holds_classes else {},
    )
