"""The model as an application sees it: open, predict, embed, forget.

Owns the one object that holds a loaded graph together with the classes known now::

    model = Classifier.open("model/")
    model.predict("photo.jpg").label
    model.forget("daisy")            # durable when it returns

It may be used from several threads. A call works on the classes that were known when it began; a
forget exchanges one reference, so no call ever sees half of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from pfm_edge_runtime.backends import Backend, Outputs, load_backend
from pfm_edge_runtime.bundle import Bundle, ClassId
from pfm_edge_runtime.errors import (
    BackendError,
    ImageError,
    NoClassLeftError,
    PackageError,
    UnknownClassError,
)
from pfm_edge_runtime.forgetting import Forgotten, find_class, prepare_forget
from pfm_edge_runtime.manifest import Manifest
from pfm_edge_runtime.package import ModelPackage

if TYPE_CHECKING:
    from pfm_edge_runtime.images import ImageSource
    from pfm_edge_runtime.preprocessing import Preprocessor

__all__ = ["ClassInfo", "Classifier", "Prediction"]

_IMAGES_PER_RUN = 16  # bounds the memory of a long list; larger batches gain nothing on a CPU


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """A class that the model knows.

    Attributes:
        class_id: 32 hexadecimal digits; stays the same over exports and trainings.
        label: What a person reads.
    """

    class_id: ClassId
    label: str


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


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The classes known at one moment, and their tensors in the graph's shape; immutable."""

    classes: tuple[ClassInfo, ...]
    tensors: Mapping[str, NDArray[np.float32]]

    @classmethod
    def of(cls, bundle: Bundle, manifest: Manifest) -> "_Snapshot":
        stored = bundle.tensors
        tensors = {
            each.name: np.ascontiguousarray(np.moveaxis(stored[each.name], 0, each.class_axis))
            for each in manifest.class_inputs
        }
        return cls(tuple(map(ClassInfo, bundle.class_ids, bundle.labels)), tensors)


class Classifier:
    """A model package in use; made by :meth:`open`. Safe to share between threads."""

    def __init__(
        self, package: ModelPackage, backend: Backend, preprocessor: "Preprocessor"
    ) -> None:
        self._directory = package.directory
        self._manifest = package.manifest
        self._manifest_digest = package.manifest_digest
        self._backend = backend
        self._preprocessor = preprocessor
        self._snapshot = _Snapshot.of(package.bundle, package.manifest)
        self._lock = Lock()  # serialises forgets; predictions never wait for it

    @classmethod
    def open(
        cls, path: str | Path, *, backend: str = "onnxruntime", threads: int | None = None
    ) -> "Classifier":
        """Open a model package: verify manifest, files and bundle, and load the graph.

        Args:
            path: The package's directory.
            backend: What runs the graph; see ``pfm_edge_runtime.backends``.
            threads: Threads for one run; ``None`` leaves that to the backend.

        Raises:
            PackageError: The package is missing, incomplete or altered; also ManifestError.
            BundleError: The bundle breaks the format, or belongs to another package.
            BackendError: The backend is unknown or not installed, or refuses the graph.
        """
        # Here, so that whoever only verifies or forgets needs no image library.
        from pfm_edge_runtime.preprocessing import Preprocessor  # noqa: PLC0415

        load = load_backend(backend)
        package = ModelPackage.open(Path(path))
        graph = package.read_graph(package.dynamic_variant())
        manifest = package.manifest
        preprocessor = Preprocessor(manifest.preprocessing, manifest.image)
        return cls(package, load(graph, threads=threads), preprocessor)

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes known now, ascending by class id."""
        return self._snapshot.classes

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
            BackendError: The graph fails, or gives values that are not finite.
        """
        snapshot = self._snapshot
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
        snapshot = self._snapshot
        sources = images if isinstance(images, list | tuple) else [images]
        if not sources:
            raise ImageError("there is no image to embed: give at least one")
        try:
            found = [outputs.embedding for outputs in self._runs(sources, snapshot)]
        except BackendError as error:
            if snapshot.classes:
                raise
            raise NoClassLeftError(
                f"no class is left, and the backend cannot run without one: {error}"
            ) from error
        return np.concatenate(found)

    def forget(self, class_id_or_label: str) -> Forgotten:
        """Forget a class: durable when it returns, and the next call no longer knows it.

        The bundle on disk is replaced first, the tensors in memory after that; if the disk
        refuses, both are as they were. Calls that run meanwhile finish on the old tensors.

        Raises:
            UnknownClassError: No class has that id or label.
            StorageError: The disk refused, and nothing changed.
            PackageError: The package cannot be read, or is another one by now.
        """
        with self._lock:
            try:
                with prepare_forget(self._directory, [class_id_or_label]) as pending:
                    self._require_same_model(pending.package)
                    snapshot = _Snapshot.of(pending.remaining, self._manifest)
                    (forgotten,) = pending.commit()
                    self._snapshot = snapshot
            except UnknownClassError:
                gone = self._forgotten_by_another(class_id_or_label)
                if gone is None:
                    raise
                return gone
            return forgotten

    def _forgotten_by_another(self, key: str) -> Forgotten | None:
        """Drop a class from memory that another process has removed from the disk."""
        started = perf_counter()
        known = ((each.class_id, each.label) for each in self._snapshot.classes)
        class_id = find_class(known, key)
        if class_id is None:
            return None
        package = ModelPackage.open(self._directory, verify_files=False)
        self._require_same_model(package)
        self._snapshot = _Snapshot.of(package.bundle, self._manifest)
        size = package.bundle_bytes
        return Forgotten(class_id, size, size, perf_counter() - started)

    def _require_same_model(self, package: ModelPackage) -> None:
        if package.manifest_digest != self._manifest_digest:
            raise PackageError(f"{self._directory} holds another package by now: open it again")

    def _predict(self, sources: "Sequence[ImageSource]", snapshot: _Snapshot) -> list[Prediction]:
        return [
            _prediction(row, snapshot.classes)
            for outputs in self._runs(sources, snapshot)
            for row in _softmax(outputs.logits)
        ]

    def _runs(self, sources: "Sequence[ImageSource]", snapshot: _Snapshot) -> Iterator[Outputs]:
        for begin in range(0, len(sources), _IMAGES_PER_RUN):
            images = self._preprocessor.batch(sources[begin : begin + _IMAGES_PER_RUN])
            yield self._run(images, snapshot)

    def _run(self, images: NDArray[np.float32], snapshot: _Snapshot) -> Outputs:
        count = len(snapshot.classes)
        for each in self._manifest.class_inputs:
            # The graph would broadcast a tensor of one class over the others without a word.
            if snapshot.tensors[each.name].shape != each.graph_shape(count):
                raise BackendError(
                    f"class input {each.name} has no row for each of {count} classes"
                )
        outputs = self._backend.run(images, snapshot.tensors)
        if outputs.logits.shape != (len(images), count):
            raise BackendError(
                f"the graph gave logits of shape {list(outputs.logits.shape)} "
                f"for {len(images)} images and {count} classes"
            )
        if not (np.isfinite(outputs.logits).all() and np.isfinite(outputs.embedding).all()):
            raise BackendError(
                "the graph gave values that are not finite: the image or graph is bad"
            )
        return outputs


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
