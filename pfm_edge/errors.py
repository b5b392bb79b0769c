"""The toolchain's own exceptions, under the one root of pfm_edge_runtime.errors."""

from pfm_edge_runtime.errors import PfmEdgeError

__all__ = ["DataError", "RegistryError", "RunError", "WeightsError"]


class DataError(PfmEdgeError):
    """A data set is missing, empty or unusable."""


class RunError(PfmEdgeError):
    """A run directory is missing, incomplete, in the way, or of another version."""


class RegistryError(RunError):
    """A class registry is missing, damaged, or older than what was made with it."""


class WeightsError(PfmEdgeError):
    """A weights file does not fit the backbone."""
