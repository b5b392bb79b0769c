"""How class rows lie in the inputs of a graph, dynamic or static.

Owns the one way from rows to inputs: as many rows as there are classes, or, for a graph of fixed
capacity, the rows first, zeros after them, and a mask that tells them apart::

    layout = ClassLayout(manifest.class_inputs, capacity=8)
    layout.arrange(bundle.tensors)["class_mask"]     # bool [8], true for the rows of the bundle

Every array that it returns is new and belongs to the caller, and no other copy of a row is made on
the way: whoever overwrites the arrays has overwritten the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pfm_edge_runtime.errors import BackendError
from pfm_edge_runtime.manifest import MASK_INPUT, ClassInput

__all__ = ["ClassArrays", "ClassLayout", "wipe"]

FloatArray: TypeAlias = NDArray[np.float32]
ClassArrays: TypeAlias = Mapping[str, NDArray[np.float32] | NDArray[np.bool_]]
"""What a graph's inputs but the image take, by name."""


@dataclass(frozen=True, slots=True)
class ClassLayout:
    """The class inputs of one graph.

    Attributes:
        inputs: The class inputs, as the manifest has them.
        capacity: Number of rows of each; ``None`` where there is one for each class.
    """

    inputs: tuple[ClassInput, ...]
    capacity: int | None = None

    def holds(self, count: int) -> bool:
        """Tell whether there is room for ``count`` classes."""
        return self.capacity is None or count <= self.capacity

    def arrange(
        self, rows: Mapping[str, FloatArray], kept: Sequence[int] | None = None
    ) -> ClassArrays:
        """Copy rows into new arrays of the graph's shapes.

        Args:
            rows: float32, the class axis first, by name.
            kept: Which rows, in which order; all of them by default.

        Returns:
            float32 by name; in a static graph also ``class_mask``, bool ``[capacity]``.
        """
        count = len(rows[self.inputs[0].name]) if kept is None else len(kept)
        slots = count if self.capacity is None else self.capacity
        made: dict[str, NDArray[np.float32] | NDArray[np.bool_]] = {}
        for each in self.inputs:
            array = np.zeros(each.graph_shape(slots), np.float32)
            target, source = np.moveaxis(array, each.class_axis, 0), rows[each.name]
            if kept is None:
                target[:count] = source
            else:  # row by row: picking all at once would leave a copy of them in freed memory
                for slot, row in enumerate(kept):
                    target[slot] = source[row]
            made[each.name] = array
        if self.capacity is not None:
            made[MASK_INPUT] = np.arange(self.capacity) < count
        return made

    def rows_of(self, arrays: ClassArrays) -> dict[str, FloatArray]:
        """Return views of arrays in the graph's shapes, with the class axis first."""
        return {
            each.name: np.moveaxis(np.asarray(arrays[each.name]), each.class_axis, 0)
            for each in self.inputs
        }

    def require(self, arrays: ClassArrays, count: int) -> None:
        """Check that every class input has a row for each of ``count`` classes.

        A graph would broadcast a tensor of one class over the others without a word.

        Raises:
            BackendError: One has not.
        """
        slots = count if self.capacity is None else self.capacity
        for each in self.inputs:
            if each.name not in arrays or arrays[each.name].shape != each.graph_shape(slots):
                raise BackendError(
                    f"class input {each.name} has no row for each of {slots} classes"
                )


def wipe(arrays: ClassArrays) -> None:
    """Overwrite arrays with zeros."""
    for array in arrays.values():
        array.fill(0)
