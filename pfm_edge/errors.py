"""The toolchain's own exceptions, under the one root of pfm_edge_runtime.errors."""

from pfm_edge_runtime.errors import PfmEdgeError

__all__ = ["DataError", "RunError", "WeightsError"]


class DataError(PfmEdgeError):
    """A data set is missing, empty or unusable."""


class RunError(PfmEdgeError):
    """A run directory is missing, incomplete, in the way, or of another version."""


class WeightsError(PfmEdgeError):
    """A weights file does not fit the backbone."""
