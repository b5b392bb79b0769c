"""The graphs of a package: which one to run, and one way to run them all.

Owns the choice of a variant, and what a static graph needs that a dynamic one does not: rows up to
its capacity, a mask, batches of its size. Whoever runs a :class:`VariantGraph` sees a backend that
takes any number of images and classes::

    (variant, *_) = suitable_variants(files, classes=10, precision="fp16")
    graph = load_variant(files, variant, load_backend("onnxruntime"))
    graph.run(images, {"class_weight": weight, "class_bias": bias}).logits      # float32 [n, 10]
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pfm_edge_runtime._layout import ClassArrays, ClassLayout, wipe
from pfm_edge_runtime._phrases import nearest
from pfm_edge_runtime.backends import Backend, BackendFactory, FloatArray, ImageArray, Outputs
from pfm_edge_runtime.errors import BackendError, VariantError
from pfm_edge_runtime.manifest import Manifest, Variant
from pfm_edge_runtime.package import PackageFiles

__all__ = ["VariantGraph", "load_variant", "require_room", "suitable_variants"]


@dataclass(frozen=True, slots=True)
class VariantGraph:
    """A loaded graph of a package; a backend of its own that hides what is static about it.

    Attributes:
        backend: What runs the graph.
        variant: Which graph it is.
        layout: How class rows lie in its inputs.
    """

    backend: Backend
    variant: Variant
    layout: ClassLayout

    @classmethod
    def of(cls, backend: Backend, variant: Variant, manifest: Manifest) -> "VariantGraph":
        """Wrap a backend that has loaded this variant."""
        return cls(backend, variant, ClassLayout(manifest.class_inputs, variant.capacity))

    def run(self, image: ImageArray, class_tensors: Mapping[str, FloatArray]) -> Outputs:
        """Run the graph on any number of images and classes.

        Args:
            image: ``[batch, channels, height, width]``, of the type that the manifest says.
            class_tensors: float32 by name, in the shapes of a dynamic graph.

        Raises:
            VariantError: It has not room for so many classes.
            BackendError: The graph does not take these inputs, or fails.
        """
        if self.layout.capacity is None:
            return self.backend.run(image, class_tensors)
        first = self.layout.inputs[0]
        for each in self.layout.inputs:
            tensor = class_tensors.get(each.name)
            if tensor is None or tensor.ndim != len(each.slice_shape) + 1:
                raise BackendError(f"class input {each.name} is missing, or lacks its class axis")
        count = class_tensors[first.name].shape[first.class_axis]
        if not self.layout.holds(count):
            raise _too_small(self.variant, count)
        arranged = self.layout.arrange(self.layout.rows_of(class_tensors))
        try:
            return self.run_arranged(image, arranged, count)
        finally:
            wipe(arranged)

    def run_arranged(self, image: ImageArray, arranged: ClassArrays, count: int) -> Outputs:
        """Run the graph on class inputs that already lie as it wants them.

        Args:
            image: ``[batch, channels, height, width]``, any number of them.
            arranged: What ``layout.arrange`` returned.
            count: How many classes are in there.

        Raises:
            BackendError: The graph does not take these inputs, or fails.
        """
        self.layout.require(arranged, count)
        parts = [self._run(part, arranged, count) for part in self._batches(image)]
        if len(parts) == 1:
            return parts[0]
        return Outputs(
            np.concatenate([each.logits for each in parts]),
            np.concatenate([each.embedding for each in parts]),
        )

    def describe(self) -> str:
        """Return one line that says what runs which graph, and where."""
        return f"{self.variant.file} in {self.backend.describe()}"

    def _batches(self, image: ImageArray) -> Iterator[ImageArray]:
        size = self.variant.batch
        if size is None:
            yield image
            return
        for begin in range(0, max(1, len(image)), size):
            yield image[begin : begin + size]

    def _run(self, image: ImageArray, arranged: ClassArrays, count: int) -> Outputs:
        size, slots = self.variant.batch or len(image), self.layout.capacity
        given = image
        if len(image) < size:
            given = np.zeros((size, *image.shape[1:]), image.dtype)
            given[: len(image)] = image
        outputs = self.backend.run(given, arranged)
        expected = (size, count if slots is None else slots)
        if outputs.logits.shape != expected:
            raise BackendError(
                f"the graph gave logits of shape {list(outputs.logits.shape)} "
                f"for {size} images and {expected[1]} classes"
            )
        if given is image and slots is None:
            return outputs
        # Copies, so that nothing refers to the scores of rows that are not there.
        return Outputs(
            outputs.logits[: len(image), :count].copy(), outputs.embedding[: len(image)].copy()
        )


def load_variant(
    files: PackageFiles, variant: Variant, load: BackendFactory, *, threads: int | None = None
) -> VariantGraph:
    """Load a graph of a package; what is loaded is what the manifest lists.

    Raises:
        PackageError: The graph's file is missing, unreadable or altered.
        BackendUnavailableError: The library behind the backend is not installed.
        BackendError: The backend cannot load the graph.
    """
    try:
        backend = load(files.read_graph(variant), threads=threads)
    except BackendError as error:
        raise type(error)(f"{files.directory / variant.file}: {error}") from error
    return VariantGraph.of(backend, variant, files.manifest)


def suitable_variants(
    files: PackageFiles,
    *,
    classes: int,
    variant: str | None = None,
    precision: str | None = None,
) -> tuple[Variant, ...]:
    """Return the graphs that fit, in the order of the manifest; at least one.

    Args:
        files: The package.
        classes: How many classes there are.
        variant: The file of the one that is wanted; ``None`` for any.
        precision: As ``"fp16"``; ``None`` for any.

    Raises:
        VariantError: There is none of that name or precision, or none with room for the classes.
    """
    known = files.manifest.variants
    found = [each for each in known if variant in {None, each.file}]
    if not found:
        names = [each.file for each in known]
        raise VariantError(
            f"{files.directory} has no graph {variant!r}{nearest(str(variant), names)}: "
            f"it has {', '.join(names)}"
        )
    found = [each for each in found if precision in {None, each.precision}]
    if not found:
        there = ", ".join(dict.fromkeys(each.precision for each in known))
        raise VariantError(
            f"{files.directory} has no graph {'' if variant is None else f'{variant} '}in "
            f"{precision}: it has {there}; export it again with --precision"
        )
    fitting = tuple(each for each in found if _holds(each, classes))
    if not fitting:
        raise _too_small(max(found, key=lambda each: each.capacity or 0), classes)
    return fitting


def require_room(variant: Variant, classes: int) -> None:
    """Check that a graph takes so many classes.

    Raises:
        VariantError: It does not.
    """
    if not _holds(variant, classes):
        raise _too_small(variant, classes)


def _holds(variant: Variant, classes: int) -> bool:
    return variant.capacity is None or classes <= variant.capacity


def _too_small(variant: Variant, classes: int) -> VariantError:
    return VariantError(
        f"{variant.file} takes up to {variant.capacity} classes and there are {classes}: use a "
        f"dynamic graph of the package, or export it again with --static --max-classes {classes}"
    )
