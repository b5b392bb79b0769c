"""Target ``triton``: a model repository for a Triton Inference Server, classes included.

Owns its layout, with one version directory, which is numbered after the bundle in it::

    repository/digits/config.pbtxt
    repository/digits/labels.txt
    repository/digits/target.json
    repository/digits/1000000003/model.onnx        # epoch 1, sequence 3

There are no links and no older versions: an export and a forget replace the model's directory as a
whole, and overwrite what it replaces. A server that has the model loaded keeps it in memory until
it is told to load it again; under EXPLICIT control nothing happens before that.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pfm_edge_exporters._class_inputs import bake_classes, embedding_width, rewrite_classes
from pfm_edge_exporters._noise import noise_images, seeded
from pfm_edge_exporters._parity import compare_outputs, require_agreement
from pfm_edge_exporters.errors import ExportError
from pfm_edge_exporters.targets._class_data import (
    LABELS_FILE,
    copy_others,
    graph_tensors,
    labels_text,
    labels_without,
    without_rows,
)
from pfm_edge_exporters.targets._options import choice, option, text, whole
from pfm_edge_exporters.targets._publish import Fill
from pfm_edge_exporters.targets._target import Draft, Job, Target, find_variant, versions
from pfm_edge_exporters.triton_from_onnx import TritonModel, triton_config
from pfm_edge_runtime.agreement import TOLERANCES
from pfm_edge_runtime.artefacts import RECORD_FILE, TargetRecord
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import ConfigError, PackageError
from pfm_edge_runtime.manifest import Variant

__all__ = ["Triton", "TritonOptions", "version_number"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MODEL = re.compile(r"([1-9][0-9]{0,18})/model\.onnx")
_SEQUENCES = 10**9  # in an epoch: the version reads as both, and is a 64-bit number
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """What ``triton`` takes."""

    name: str | None = option(
        None, parse=text, kind="NAME", help="Name of the model; the package's by default."
    )
    variant: str | None = option(
        None, parse=text, kind="FILE", help="The package's graph to serve; the first by default."
    )
    max_batch: int = option(8, parse=whole(1, 4096), kind="1 to 4096", help="Most images at once.")
    queue_delay_us: int = option(
        500, parse=whole(0, 10**6), kind="MICROSECONDS", help="How long a request waits for others."
    )
    kind: str = option(
        "auto", parse=choice("auto", "cpu", "gpu"), kind="auto, cpu or gpu", help="Where it runs."
    )
    instances: int = option(
        1, parse=whole(1, 64), kind="1 to 64", help="How many run at once, on each device."
    )


class Triton(Target):
    """The target."""

    name: ClassVar[str] = "triton"
    summary: ClassVar[str] = "a model repository for Triton, with the classes of the bundle in it"
    options: ClassVar[type] = TritonOptions
    holds_classes: ClassVar[bool] = True

    def default_out(self, package: Path, options: TritonOptions) -> Path:  # noqa: ARG002 (for others)
        """Return a repository beside the package."""
        return package.with_name(f"{package.name}-triton")

    def place(self, out: Path, package: Path, options: TritonOptions) -> Path:
        """Return the model's directory in the repository."""
        name = package.name if options.name is None else options.name
        if _NAME.fullmatch(name) is None:
            raise ConfigError(
                f"{name!r:.80} cannot name a model of a repository: give -O name=, of letters, "
                "digits, points, hyphens and underscores"
            )
        return out / name

    def make(self, job: Job) -> Draft:
        """Put the classes into the graph, and compare what comes out of it."""
        package, options = job.package, job.options
        variant = find_variant(package, options.variant, dynamic=True)
        job.progress(0.0, "putting the classes into the graph")
        graph, tensors = package.files.read_graph(variant), graph_tensors(package)
        model = bake_classes(graph, tensors)
        job.progress(0.5, "comparing the two graphs")
        worst = _compare(job, variant, (graph, model), tensors)
        config = triton_config(
            TritonModel(
                name=self.place(Path(), package.directory.absolute(), options).name,
                image=package.manifest.image,
                embedding=embedding_width(graph),
                max_batch=options.max_batch,
                queue_delay_us=options.queue_delay_us,
                kind=options.kind,
                instances=options.instances,
            )
        )
        version = version_number(package.bundle.statement.epoch, package.bundle.statement.sequence)
        fill = partial(
            _fill,
            version=version,
            files={"config.pbtxt": config.encode(), LABELS_FILE: labels_text(package)},
            model=model,
        )
        facts = {"version": version, "classes": len(package.bundle), "worst_difference": worst}
        return Draft(fill, variant, versions("onnx"), facts)

    def is_class_file(self, name: str) -> bool:
        """Tell whether it is the graph, which has the classes in it, or the labels."""
        return name == LABELS_FILE or _MODEL.fullmatch(name) is not None

    def without(self, directory: Path, record: TargetRecord, gone: Collection[ClassId]) -> Fill:
        """Return what writes the model's directory again, without these classes.

        Whatever was added to it by hand stays, but for other versions of the model: nobody knows
        which classes are in them.
        """
        rows, count = record.rows_of(gone), len(record.classes)
        path = _model_path(directory, record)
        try:
            graph = path.read_bytes()
        except OSError as error:
            raise PackageError(f"{path} cannot be read: {error.strerror or error}") from error
        try:
            model = rewrite_classes(
                graph,
                {
                    name: partial(without_rows, axis=axis, rows=rows, classes=count)
                    for name, axis in record.class_axes.items()
                },
            )
        except ExportError as error:
            raise PackageError(
                f"{path}: {error}; remove {directory}, and export it again"
            ) from error
        labels = labels_without(directory / LABELS_FILE, rows, count)

        def fill(staging: Path) -> None:
            copy_others(directory, staging, {LABELS_FILE, RECORD_FILE})
            _fill(staging, version=int(path.parent.name), files={LABELS_FILE: labels}, model=model)

        return fill


def version_number(epoch: int, sequence: int) -> int:
    """Return the version of a bundle: 1000000003 for epoch 1, sequence 3.

    Raises:
        ConfigError: The pair fits no version.
    """
    version = epoch * _SEQUENCES + sequence
    if sequence >= _SEQUENCES or version > _MOST:
        raise ConfigError(f"epoch {epoch} and sequence {sequence} fit no version of a repository")
    return version


def _compare(
    job: Job,
    variant: Variant,
    graphs: tuple[bytes, bytes],
    tensors: Mapping[str, NDArray[np.float32]],
) -> float:
    """Return the largest difference between the model and the graph that it was made from.

    Raises:
        ParityError: It is more than a graph of that precision may differ by.
    """
    manifest, load = job.package.manifest, load_backend("onnxruntime")
    images = noise_images(manifest.image, 2, seeded(manifest.model_id, "triton"))
    graph, model = graphs
    expected = load(graph).run(images, tensors)
    row = compare_outputs(expected, load(model), images, {}, len(job.package.bundle))
    tolerance = TOLERANCES[variant.precision]
    require_agreement([row], tolerance, against="the graph that it was made from")
    return row.difference.worst


def _fill(directory: Path, *, version: int, files: dict[str, bytes], model: bytes) -> None:
    for name, data in files.items():
        (directory / name).write_bytes(data)
    (directory / str(version)).mkdir()
    (directory / str(version) / "model.onnx").write_bytes(model)


def _model_path(directory: Path, record: TargetRecord) -> Path:
    found = [name for name in record.files if _MODEL.fullmatch(name)]
    if len(found) != 1:
        raise PackageError(
            f"{directory / RECORD_FILE} names {len(found)} versions of the model: remove "
            f"{directory}, and export it again"
        )
    return directory / found[0]
