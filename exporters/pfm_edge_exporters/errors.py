"""The exporters' own exceptions, under the one root of pfm_edge_runtime.errors."""

from pfm_edge_runtime.errors import PfmEdgeError

__all__ = ["ExportError", "ParityError"]


class ExportError(PfmEdgeError):
    """A model cannot be exported."""


class ParityError(ExportError):
    """An exported graph does not give the outputs of the model it came from."""
