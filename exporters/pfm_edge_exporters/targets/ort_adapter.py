"""Target ``ort-adapter``: the classes of the bundle as an ONNX Runtime adapter.

Owns its layout. It is for programs that use ONNX Runtime by themselves; nothing in an adapter says
whose it is, so ``pfm-device`` does not read one. From C, C++ or C# it also fits the package's own
graph; ONNX Runtime's Python wants inputs that an adapter fills to have a default::

    model-ort-adapter/classes.onnx_adapter
    model-ort-adapter/backbone.onnx             # the package's, its class inputs optional
    model-ort-adapter/labels.txt                # line i is class i
    model-ort-adapter/target.json

    adapter = onnxruntime.LoraAdapter()
    adapter.Load("model-ort-adapter/classes.onnx_adapter")
    options = onnxruntime.RunOptions()
    options.add_active_adapter(adapter)
    session = onnxruntime.InferenceSession("model-ort-adapter/backbone.onnx")
    session.run(["logits"], {"image": images}, options)
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pfm_edge_exporters._class_inputs import optional_classes
from pfm_edge_exporters.ort_adapter import (
    model_version,
    read_adapter,
    require_adapters,
    write_adapter,
)
from pfm_edge_exporters.targets._class_data import (
    LABELS_FILE,
    copy_others,
    graph_tensors,
    labels_text,
    labels_without,
    without_rows,
)
from pfm_edge_exporters.targets._options import flag, option, text
from pfm_edge_exporters.targets._publish import Fill
from pfm_edge_exporters.targets._target import Draft, Job, Target, find_variant, versions
from pfm_edge_runtime.artefacts import RECORD_FILE, TargetRecord
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import PackageError

__all__ = ["OrtAdapter", "OrtAdapterOptions"]

ADAPTER_FILE = "classes.onnx_adapter"
_BITS = 2**31 - 1  # what an adapter's version has


@dataclass(frozen=True, slots=True)
class OrtAdapterOptions:
    """What ``ort-adapter`` takes."""

    variant: str | None = option(
        None, parse=text, kind="FILE", help="The package's graph to copy; the first by default."
    )
    graph: bool = option(
        True, parse=flag, kind="yes or no", help="Whether to put a graph beside the adapter."
    )


class OrtAdapter(Target):
    """The target."""

    name: ClassVar[str] = "ort-adapter"
    summary: ClassVar[str] = "the bundle's class tensors as an ONNX Runtime adapter"
    options: ClassVar[type] = OrtAdapterOptions
    holds_classes: ClassVar[bool] = True

    def default_out(self, package: Path, options: OrtAdapterOptions) -> Path:  # noqa: ARG002 (for others)
        """Return a directory beside the package."""
        return package.with_name(f"{package.name}-ort-adapter")

    def check(self) -> None:
        """Refuse, before any work, an ONNX Runtime that knows no adapters."""
        require_adapters()

    def make(self, job: Job) -> Draft:
        """Lay the tensors out as the graph takes them, and give the graph defaults for them."""
        package = job.package
        variant, graph = None, b""
        if job.options.graph:
            variant = find_variant(package, job.options.variant, dynamic=True)
            job.progress(0.0, "copying the graph")
            graph = optional_classes(
                package.files.read_graph(variant), package.manifest.class_inputs
            )
        job.progress(0.5, "laying out the class tensors")
        tensors, labels = graph_tensors(package), labels_text(package)
        adapter_version = package.bundle.statement.sequence & _BITS

        def fill(directory: Path) -> None:
            (directory / LABELS_FILE).write_bytes(labels)
            if variant is not None:
                (directory / variant.file).write_bytes(graph)
            write_adapter(
                directory / ADAPTER_FILE,
                tensors,
                adapter_version=adapter_version,
                model_version=model_version(package.manifest.model_id),
            )

        facts = {"classes": len(package.bundle), "adapter_version": adapter_version}
        return Draft(fill, variant, versions("onnx", "onnxruntime"), facts)

    def is_class_file(self, name: str) -> bool:
        """Tell whether it is the adapter or the labels; the graph has no class."""
        return name in {ADAPTER_FILE, LABELS_FILE}

    def without(self, directory: Path, record: TargetRecord, gone: Collection[ClassId]) -> Fill:
        """Return what writes the adapter again, without these classes."""
        rows, count = record.rows_of(gone), len(record.classes)
        tensors, adapter_version, model_number = read_adapter(directory / ADAPTER_FILE)
        if tensors.keys() != record.class_axes.keys():
            raise PackageError(
                f"{directory / ADAPTER_FILE} holds other tensors than were exported: remove "
                f"{directory}, and export it again"
            )
        fewer = {
            name: without_rows(tensors[name], axis=axis, rows=rows, classes=count)
            for name, axis in record.class_axes.items()
        }
        labels = labels_without(directory / LABELS_FILE, rows, count)

        def fill(staging: Path) -> None:
            copy_others(directory, staging, {ADAPTER_FILE, LABELS_FILE, RECORD_FILE})
            (staging / LABELS_FILE).write_bytes(labels)
            write_adapter(
                staging / ADAPTER_FILE,
                fewer,
                adapter_version=adapter_version,
                model_version=model_number,
            )

        return fill
