"""The model as an application sees it: open, predict, embed, forget.

Owns the one object that holds a loaded graph together with the classes known now::

    model = Classifier.open("model/")
    model.predict("photo.jpg").label
    model.forget("daisy")            # durable when it returns

It may be used from several threads. A call works on the classes that were known when it began; a
forget exchanges one reference, so no call ever sees half of it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from pfm_edge_runtime._live import LiveClasses
from pfm_edge_runtime._snapshot import ClassInfo, Snapshot
from pfm_edge_runtime.backends import BackendFactory, ImageArray, Outputs, load_backend
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import (
    BackendError,
    BackendUnavailableError,
    ImageError,
    NoClassLeftError,
)
from pfm_edge_runtime.manifest import Precision, Variant
from pfm_edge_runtime.opening import OpenModel, open_model
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.variants import VariantGraph, load_variant, suitable_variants

if TYPE_CHECKING:
    from pfm_edge_runtime.forgetting import Forgotten
    from pfm_edge_runtime.images import ImageSource
    from pfm_edge_runtime.preprocessing import Preprocessor
    from pfm_edge_runtime.state import Order

__all__ = ["ClassInfo", "Classifier", "Prediction"]

_LOG = logging.getLogger("pfm_edge_runtime")
_IMAGES_PER_RUN = 16  # bounds the memory of a long list; larger batches gain nothing on a CPU


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one image.

    Attributes:
        class_id: The class with the highest score.
        label: Its label.
        score: Its softmax over the classes present, 0 to 1.
        scores: The same for every class present; they add up to 1.
    """

    class_id: ClassId
    label: str
    score: float
    scores: Mapping[ClassId, float]


class Classifier:
    """A model package in use; made by :meth:`open`. Safe to share between threads."""

    def __init__(self, model: OpenModel, graph: VariantGraph, preprocessor: "Preprocessor") -> None:
        self._graph = graph
        self._preprocessor = preprocessor
        self._live = LiveClasses(model, graph.variant)

    @classmethod
    def open(  # noqa: PLR0913 (all but the package by keyword, and seldom given)
        cls,
        path: str | Path,
        *,
        state: str | Path | None = None,
        require_state: bool = False,
        backend: str = "onnxruntime",
        threads: int | None = None,
        variant: str | None = None,
        precision: Precision | None = None,
    ) -> "Classifier":
        """Open a model package: verify manifest, files and bundle, and load the graph.

        Args:
            path: The package's directory.
            state: Where the device's memory is; ``None`` is PFM_EDGE_STATE, or the system's place
                for it. One that trusts on first use is made if there is none.
            require_state: Whether to refuse rather than to trust on first use.
            backend: What runs the graph; see ``pfm_edge_runtime.backends``.
            threads: Threads to run on; ``None`` is every core.
            variant: File of the graph to run, as ``"backbone.fp16.onnx"``; ``None`` is the first
                that the backend can load and that has room for the classes.
            precision: What the graph must compute in; ``None`` is any.

        Raises:
            PackageError: The package is missing, incomplete or altered; also ManifestError.
            VariantError: It has no such graph, or none with room for its classes.
            BundleError: The bundle breaks the format, belongs to another package, is not from
                whom this device trusts, is older than what it had, or lacks a class it had.
            StateError: The device's memory is damaged, another device's, or missing.
            StorageError: The disk refused what must be recorded first.
            BackendError: The backend is unknown or not installed, or refuses the graph.
        """
        # Here, so that whoever only verifies or forgets needs no image library.
        from pfm_edge_runtime.preprocessing import Preprocessor  # noqa: PLC0415

        load = load_backend(backend)
        model = open_model(path, state=state, require_state=require_state)
        variants = suitable_variants(
            model.files,
            classes=len(model.bundle.class_ids),
            variant=variant,
            precision=precision,
        )
        manifest = model.files.manifest
        preprocessor = Preprocessor(manifest.preprocessing, manifest.image)
        return cls(model, _first(model.files, variants, load, threads), preprocessor)

    @property
    def variant(self) -> Variant:
        """The graph of the package that runs."""
        return self._graph.variant

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes known now, ascending by class id."""
        return self._live.classes

    @overload
    def predict(
        self, images: "list[ImageSource] | tuple[ImageSource, ...]"
    ) -> list[Prediction]: ...

    @overload
    def predict(self, images: "ImageSource") -> Prediction: ...

    def predict(
        self, images: "ImageSource | list[ImageSource] | tuple[ImageSource, ...]"
    ) -> Prediction | list[Prediction]:
        """Classify one image, or a list or tuple of images.

        Args:
            images: Paths, encoded bytes, Pillow images, or uint8 arrays ``[h, w]`` or
                ``[h, w, channels]`` with 1, 3 or 4 channels.

        Returns:
            A prediction for one image, a list of them for a list or tuple.

        Raises:
            NoClassLeftError: Every class was forgotten.
            ImageError: An image cannot be read, or has the wrong form.
            StateError: The device's memory cannot be read, so nobody knows what it forgot.
            BackendError: The graph fails, or gives values that are not finite.
        """
        with self._live.use() as snapshot:
            if not snapshot.classes:
                raise NoClassLeftError("no class is left to predict: every one was forgotten")
            if not isinstance(images, list | tuple):
                return self._predict([images], snapshot)[0]
            return self._predict(images, snapshot)

    def embed(
        self, images: "ImageSource | list[ImageSource] | tuple[ImageSource, ...]"
    ) -> NDArray[np.float32]:
        """Return the embeddings of one image, or of a list or tuple of at least one.

        It works though no class is left, if the backend runs the graph without any.

        Args:
            images: As for :meth:`predict`.

        Returns:
            float32 ``[images, width]``; one row for one image.

        Raises:
            NoClassLeftError: Every class was forgotten, and the backend needs one.
            ImageError: An image cannot be read, or has the wrong form; or there is none.
            BackendError: The graph fails, or gives values that are not finite.
        """
        sources = images if isinstance(images, list | tuple) else [images]
        if not sources:
            raise ImageError("there is no image to embed: give at least one")
        with self._live.use() as snapshot:
            try:
                found = [outputs.embedding for outputs in self._runs(sources, snapshot)]
            except BackendError as error:
                if snapshot.classes:
                    raise
                raise NoClassLeftError(
                    f"no class is left, and the backend cannot run without one: {error}"
                ) from error
        return np.concatenate(found)

    def forget(self, class_id_or_label: str, *, order: "Order | None" = None) -> "Forgotten":
        """Forget a class: committed when it returns, and the next call no longer knows it.

        Calls that run meanwhile finish on the old tensors, which are zeroed after the last of
        them. Forgetting a class again, by its id, is no error and gives the same receipt.

        Args:
            class_id_or_label: The class. Its label is gone afterwards, so only the id names it.
            order: Who asked for it, if that is known.

        Returns:
            What became of the class; ``erased`` and ``receipt`` say whether its bytes are gone.

        Raises:
            UnknownClassError: No class has that id or label, and none was forgotten.
            StorageError: The disk refused to commit, and nothing changed.
            PackageError: The package cannot be read, or is another one by now.
            StateError: The device's memory is damaged, or gone.
        """
        return self._live.forget(class_id_or_label, order)

    def _predict(self, sources: "Sequence[ImageSource]", snapshot: Snapshot) -> list[Prediction]:
        return [
            _prediction(row, snapshot.classes)
            for outputs in self._runs(sources, snapshot)
            for row in _softmax(outputs.logits)
        ]

    def _runs(self, sources: "Sequence[ImageSource]", snapshot: Snapshot) -> Iterator[Outputs]:
        size = self._graph.variant.batch or 1
        step = size * -(-_IMAGES_PER_RUN // size)  # whole batches of a graph that has a fixed one
        for begin in range(0, len(sources), step):
            images = self._preprocessor.batch(sources[begin : begin + step])
            yield self._run(images, snapshot)

    def _run(self, images: ImageArray, snapshot: Snapshot) -> Outputs:
        outputs = self._graph.run_arranged(images, snapshot.tensors, len(snapshot.classes))
        if not (np.isfinite(outputs.logits).all() and np.isfinite(outputs.embedding).all()):
            raise BackendError(
                "the graph gave values that are not finite: the image or graph is bad"
            )
        return outputs


def _first(
    files: PackageFiles,
    variants: Sequence[Variant],
    load: BackendFactory,
    threads: int | None,
) -> VariantGraph:
    """Load the first graph that the backend takes.

    Raises:
        BackendError: It takes none; this is what it says of the first.
    """
    refusals: list[BackendError] = []
    for variant in variants:
        try:
            graph = load_variant(files, variant, load, threads=threads)
        except BackendUnavailableError:
            raise
        except BackendError as error:
            refusals.append(error)
            continue
        for refusal in refusals:
            _LOG.warning("%s runs instead: %s", files.directory / variant.file, refusal)
        return graph
    raise refusals[0]


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the softmax over the last axis, in float64: ``[batch, classes]``."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    weights: NDArray[np.float64] = np.exp(shifted)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _prediction(scores: NDArray[np.float64], classes: tuple[ClassInfo, ...]) -> Prediction:
    best = int(scores.argmax())
    by_class = {each.class_id: float(score) for each, score in zip(classes, scores, strict=True)}
    return Prediction(
        class_id=classes[best].class_id,
        label=classes[best].label,
        score=float(scores[best]),
        scores=MappingProxyType(by_class),
    )
