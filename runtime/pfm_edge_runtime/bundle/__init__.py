"""Bundles: bytes to objects and back, with no file, clock or network in between."""

from pfm_edge_runtime.bundle._container import read_tensors, write_tensors
from pfm_edge_runtime.bundle._limits import BundleLimits

__all__ = ["BundleLimits", "read_tensors", "write_tensors"]
