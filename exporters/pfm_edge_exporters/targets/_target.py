"""What a target is: something that a model package is turned into, with options of its own.

Owns the seam. A target is one module: an options dataclass and a class with one method, which does
all of the work in memory and returns what writes the result::

    class Triton(Target):
        name, summary, options, holds_classes = "triton", "…", TritonOptions, True

        def make(self, job: Job) -> Draft: ...
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from pfm_edge_exporters._build_progress import BuildProgress
from pfm_edge_exporters.targets._publish import Fill
from pfm_edge_runtime._phrases import nearest
from pfm_edge_runtime.artefacts import TargetRecord
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import ConfigError
from pfm_edge_runtime.manifest import Variant
from pfm_edge_runtime.package import ModelPackage

__all__ = ["Draft", "Job", "Target", "find_variant", "versions"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a target is asked for.

    Attributes:
        package: The package; its files are verified.
        options: An instance of the target's dataclass.
        progress: Told how far the work is.
    """

    package: ModelPackage
    options: Any
    progress: BuildProgress


@dataclass(frozen=True, slots=True)
class Draft:
    """The finished work, before any of it is on the disk.

    Attributes:
        fill: Writes the files.
        variant: The graph that it was made from; ``None`` where no graph is in it.
        made_with: Versions of the libraries that shaped it, by name.
        facts: What is worth telling, as values that JSON has.
    """

    fill: Fill
    variant: Variant | None
    made_with: Mapping[str, str]
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


class Target(ABC):
    """One target; instances hold nothing.

    Attributes:
        name: As it is given.
        summary: What it makes, in a line.
        options: Its frozen options dataclass; every field is an ``option``.
        holds_classes: Whether class tensors are in what it makes, so that a forget must reach it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[type]
    holds_classes: ClassVar[bool] = False

    @abstractmethod
    def default_out(self, package: Path, options: Any) -> Path:
        """Return where the result goes if nobody says so."""

    def place(self, out: Path, package: Path, options: Any) -> Path:  # noqa: ARG002 (for others)
        """Return the directory of the artefact itself, given where the result goes."""
        return out

    def check(self) -> None:  # noqa: B027 (a target may need nothing)
        """Refuse, before any work, what this machine cannot do.

        Raises:
            ExportError: A library is missing, or of a release that cannot be used.
        """

    @abstractmethod
    def make(self, job: Job) -> Draft:
        """Do the work, in memory.

        Raises:
            ConfigError: The options do not fit the package.
            ExportError: It cannot be done.
        """

    def is_class_file(self, name: str) -> bool:  # noqa: ARG002 (for others)
        """Tell whether a file of the artefact, by its path in it, holds classes."""
        return self.holds_classes

    def without(self, directory: Path, record: TargetRecord, gone: Collection[ClassId]) -> Fill:
        """Return what writes the artefact again, without these classes.

        Args:
            directory: The artefact as it is.
            record: Its record.
            gone: Some of its classes, not all.

        Raises:
            PackageError: The artefact is damaged.
        """
        raise NotImplementedError(f"{self.name} holds no class")  # pragma: no cover


def find_variant(package: ModelPackage, name: str | None, *, dynamic: bool = False) -> Variant:
    """Return a graph of a package by its file name; the first one by default.

    Args:
        package: The package.
        name: The file name.
        dynamic: Whether any number of classes must fit.

    Raises:
        ConfigError: The package has no such graph.
    """
    variants = {each.file: each for each in package.manifest.variants}
    if name is None:
        return package.manifest.variants[0]
    if name not in variants:
        raise ConfigError(
            f"{package.directory} has no graph {name!r:.80}{nearest(name, variants)}; "
            f"it has {', '.join(variants)}"
        )
    if dynamic and variants[name].capacity is not None:
        raise ConfigError(
            f"{name} has a fixed number of classes: name a graph that has not, as in "
            "-O variant=backbone.onnx"
        )
    return variants[name]


def versions(*names: str) -> dict[str, str]:
    """Return the versions of distributions that are installed, by name."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
