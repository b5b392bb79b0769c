"""Is a graph as good as the float32 one, and is it faster? Measured, on this machine.

Owns both measurements::

    accuracy = compare_accuracy(predictions(graph, held_out), before, held_out.labels)
    speed = compare_speed(first, second, images, class_tensors, clock=time.perf_counter)
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pfm_edge_exporters._source import FloatArray
from pfm_edge_exporters.options import HeldOut
from pfm_edge_runtime.backends import ImageArray, Runner

__all__ = ["Accuracy", "Speed", "compare_accuracy", "compare_speed", "predictions"]

_ROUNDS = 15
# A graph is called slower only where it is slower than this: two runs of one graph differ by less.
_NO_SLOWER = 0.95
_SECONDS = 20.0  # enough of one comparison; a round more than that is not begun
# ONNX Runtime's threads spin for a while after a run and would take a core from the other graph.
_PAUSE_SECONDS = 0.02

Done = Callable[[int, int], None]
"""Told how many images are done, of how many."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a graph knows of held-out images, beside what was known before.

    Attributes:
        images: How many there are.
        before: Share that was right before, 0 to 1.
        after: Share that is right now.
        same: Share for which the class is the same as before, right or wrong.
    """

    images: int
    before: float
    after: float
    same: float

    @property
    def drop(self) -> float:
        """What is lost, in points; below zero where something is gained."""
        return 100 * (self.before - self.after)

    def as_dict(self) -> dict[str, float | int]:
        """Return it as values that JSON has."""
        return {
            "images": self.images,
            "before": self.before,
            "after": self.after,
            "same": self.same,
            "drop_points": round(self.drop, 6),
        }

    def __str__(self) -> str:
        return (
            f"accuracy {self.after:.4f} on {self.images} held-out images (before {self.before:.4f},"
            f" same class for {self.same:.4f})"
        )


@dataclass(frozen=True, slots=True)
class Speed:
    """How long a graph takes beside another, for one image.

    Attributes:
        before: Seconds of the other one's fastest run: what else the machine does only adds to it.
        after: Seconds of this one's fastest run.
        rounds: Number of runs of each.
    """

    before: float
    after: float
    rounds: int

    @property
    def ratio(self) -> float:
        """How many times as fast this one is."""
        return self.before / max(self.after, 1e-9)

    @property
    def is_slower(self) -> bool:
        """Whether this one is slower than the other by more than measuring it varies."""
        return self.ratio < _NO_SLOWER

    def as_dict(self) -> dict[str, float | int]:
        """Return it as values that JSON has."""
        return {
            "before_ms": round(1e3 * self.before, 3),
            "after_ms": round(1e3 * self.after, 3),
            "ratio": round(self.ratio, 3),
            "slower": self.is_slower,
            "rounds": self.rounds,
        }

    def __str__(self) -> str:
        return (
            f"{self.ratio:.2f} times as fast ({_ms(self.after)} ms an image, float32 "
            f"{_ms(self.before)} ms, best of {self.rounds})"
        )


def _ms(seconds: float) -> str:
    """Return milliseconds with the digits that a comparison needs."""
    return f"{1e3 * seconds:.{1 if seconds >= 0.01 else 3}f}"  # noqa: PLR2004 (ten milliseconds)


def predictions(
    backend: Runner, held_out: HeldOut, done: Done = lambda *_: None
) -> NDArray[np.int64]:
    """Classify held-out images with every class there is.

    Returns:
        int64 [n], the row of the class.

    Raises:
        BackendError: The graph fails.
    """
    found = np.empty(len(held_out.labels), np.int64)
    begin = 0
    for images in held_out.batches():
        logits = backend.run(images, held_out.class_tensors).logits
        found[begin : begin + len(images)] = logits.argmax(axis=1)
        begin += len(images)
        done(begin, len(found))
    return found


def compare_accuracy(
    found: NDArray[np.int64], before: NDArray[np.int64], labels: NDArray[np.int64]
) -> Accuracy:
    """Compare two sets of predictions, each int64 [n] with n above 0."""
    return Accuracy(
        images=len(labels),
        before=float((before == labels).mean()),
        after=float((found == labels).mean()),
        same=float((found == before).mean()),
    )


def compare_speed(
    before: Runner,
    after: Runner,
    images: ImageArray,
    class_tensors: Mapping[str, FloatArray],
    *,
    clock: Callable[[], float],
) -> Speed:
    """Run two graphs next to each other, in an order that alternates.

    Raises:
        BackendError: One of them fails.
    """

    def seconds(backend: Runner) -> float:
        time.sleep(_PAUSE_SECONDS)
        backend.run(images, class_tensors)  # wakes the threads, and warms the caches again
        begin = clock()
        backend.run(images, class_tensors)
        return clock() - begin

    pairs: list[tuple[float, float]] = []
    end = clock() + _SECONDS
    while not pairs or (len(pairs) < _ROUNDS and clock() < end):
        if len(pairs) % 2:
            second = seconds(after)
            pairs.append((seconds(before), second))
        else:
            pairs.append((seconds(before), seconds(after)))
    return Speed(
        before=min(one for one, _ in pairs),
        after=min(other for _, other in pairs),
        rounds=len(pairs),
    )
