"""Which graphs an export makes of a run, and the images that they are judged by.

request = GraphRequest(precisions=("fp16", "int8"), calibration=TRAINING_IMAGES)
source, options = request.prepare(run, model, progress)

Held-out images are read only where something can cost accuracy: fewer bits, or another image size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pfm_edge.data import ClassificationData, Split, images_below, load_data
from pfm_edge.model import PromptedViT, require_static_memory
from pfm_edge.publishing._source import deployable_source
from pfm_edge.training import Run
from pfm_edge_exporters import Calibration, ExportError, ExportOptions, HeldOut, TorchSource
from pfm_edge_runtime.backends import ImageArray
from pfm_edge_runtime.bundle import Entry
from pfm_edge_runtime.manifest import Precision
from pfm_edge_runtime.preprocessing import Preprocessor

__all__ = ["TRAINING_IMAGES", "GraphRequest"]

TRAINING_IMAGES = "train"
"""Calibrate with the run's own training images, where a folder could stand."""

_BATCH = 32
_CALIBRATION_IMAGES = 512  # ranges hardly widen after a few hundred; a minute on a small CPU
Progress = Callable[[str], None]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GraphRequest:
    """The graphs of a package beside its first, as a person asks for them.

    Attributes:
        precisions: "fp16", "int8" or both.
        static: graphs of a fixed capacity, one in each precision.
        max_classes: that capacity; the run's number of classes by default.
        batch: number of images of those graphs; any by default.
        image_size: height and width to export for; what was trained by default.
        fold_normalization: let all graphs take pixels.
        opset23: one more graph, of opset 23.
        calibration: a folder of images, or TRAINING_IMAGES: int8 ranges are measured once, here;
            by default every run measures its own.
        max_accuracy_drop: points that may be lost on held-out images.
        force: keep graphs that are slow here.
    """

    precisions: tuple[Precision, ...] = ()
    static: bool = False
    max_classes: int | None = None
    batch: int | None = None
    image_size: tuple[int, int] | None = None
    fold_normalization: bool = False
    opset23: bool = False
    calibration: str | None = None
    max_accuracy_drop: float = 0.5
    force: bool = False

    def __post_init__(self) -> None:
        for name, value in (("--max-classes", self.max_classes), ("--batch", self.batch)):
            if value is not None and not self.static:
                raise ExportError(f"{name} fixes a static graph: add --static, or leave it out")
        if self.calibration is not None and "int8" not in self.precisions:
            raise ExportError("--calibration is for int8: add --precision int8, or leave it out")
        if self.calibration == "":  # what an unset variable of a shell leaves, and no folder
            raise ExportError(f"--calibration names no folder; it takes one, or {TRAINING_IMAGES}")

    def prepare(
        self,
        run: Run,
        model: PromptedViT,
        entries: Sequence[Entry],
        *,
        overwrite: bool,
        progress: Progress,
    ) -> tuple[TorchSource, ExportOptions]:
        """Turn the request into what the exporter takes, with the run's images behind it.

        Args:
            run: whose data.
            model: the run's; left unchanged.
            entries: what every class of it contributes, in the order of the run's labels.
            overwrite: whether a package that is there may be replaced.
            progress: told what is read.

        Raises:
            ConfigError: the backbone cannot take images of that size, or this machine has no memory
                for a static graph.
            DataError: images are needed, and are not there.
            ExportError: what is asked for contradicts itself.
        """
        source = deployable_source(model, run.config.backbone, self.image_size)
        if self.fold_normalization:
            source = replace(source, image=replace(source.image, dtype="uint8"))
        options = ExportOptions(
            max_classes=model.num_classes,
            overwrite=overwrite,
            precisions=self.precisions,
            capacity=(self.max_classes or model.num_classes) if self.static else None,
            batch=self.batch,
            opset23=self.opset23,
            max_accuracy_drop=self.max_accuracy_drop,
            force=self.force,
        )
        if options.capacity is not None:
            backbone, kind = source.module.backbone, model.attention.kind
            require_static_memory(backbone, kind, capacity=options.capacity, batch=self.batch)
        if not self.precisions and self.image_size is None:
            return source, options
        images = _Images(run, source, entries, progress)
        trained = None if self.image_size is None else images.trained_predictions(model)
        wanted = self.calibration
        calibration = None if wanted is None else images.calibration(wanted)
        held_out = images.held_out(trained)
        return source, replace(options, held_out=held_out, calibration=calibration)


class _Images:
    """A run's images, as one of its deployable models takes them."""

    def __init__(
        self, run: Run, source: TorchSource, entries: Sequence[Entry], progress: Progress
    ) -> None:
        self._run = run
        self._source = source
        self._progress = progress
        self._data = self._load(source)
        self._class_tensors = _class_tensors(entries, source)

    def held_out(self, trained: NDArray[np.int64] | None) -> HeldOut:
        """Return the images that the run did not learn from."""
        split = self._data.test
        return HeldOut(split.labels.numpy(), _batches(split), self._class_tensors, trained)

    def trained_predictions(self, model: PromptedViT) -> NDArray[np.int64]:
        """Return what the model says of the held-out images, at the size that it was trained at."""
        split = self._load(deployable_source(model, self._run.config.backbone)).test
        model.eval()
        found: list[NDArray[np.int64]] = []
        with torch.inference_mode():
            for images in _batches(split)():
                logits = model(torch.from_numpy(images), model.full_bank())
                found.append(logits.argmax(dim=1).numpy())
                done = sum(map(len, found))
                self._progress(f"accuracy as trained, {done} of {len(split)} images")
        return np.concatenate(found)

    def calibration(self, wanted: str) -> Calibration:
        """Return the images to calibrate with: some of a folder, or of what the run learnt from."""
        if wanted == TRAINING_IMAGES:
            split, where = self._data.train, "of training"
        else:
            paths = images_below(Path(wanted))
            preprocessor = Preprocessor(self._source.preprocessing, self._source.image)
            split, where = Split(paths, [0] * len(paths), preprocessor), "of a folder"
        count = min(len(split), _CALIBRATION_IMAGES)
        rows = np.linspace(0, len(split) - 1, count).round().astype(np.int64)
        description = f"{count} images {where}"
        return Calibration(description, _batches(split, torch.from_numpy(rows)))

    def _load(self, source: TorchSource) -> ClassificationData:
        preprocessor = Preprocessor(source.preprocessing, source.image)

        def checked(done: int, total: int) -> None:
            self._progress(f"checking images, {done} of {total}")

        self._progress("reading the run's images")
        data = load_data(self._run.config.data, preprocessor, checked)
        return data.only(self._run.labels)


def _batches(split: Split, rows: Tensor | None = None) -> Callable[[], Iterator[ImageArray]]:
    chosen = torch.arange(len(split)) if rows is None else rows

    def batches() -> Iterator[ImageArray]:
        for indices in torch.split(chosen, _BATCH):
            yield split.images(indices).numpy()

    return batches


def _class_tensors(entries: Sequence[Entry], source: TorchSource) -> dict[str, FloatArray]:
    """Return what the classes contribute, as the graph takes it."""
    return {
        each.name: np.stack([entry.tensors[each.name] for entry in entries], axis=each.class_axis)
        for each in source.class_inputs
    }
