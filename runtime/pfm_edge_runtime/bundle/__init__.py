"""Bundles: bytes to objects and back, with no file, clock or network in between.

A bundle holds the class tensors of the classes known now. To forget a class is to write the
bundle without it::

    bundle = Bundle.from_bytes(data)
    data = bundle.without([class_id]).to_bytes()

A ``Bundle`` is well formed; a ``VerifiedBundle`` is also what this device may use::

    data = new_buffer(size)            # then file.readinto(data): no copy is made of it
    verified = VerifiedBundle.from_bytes(data, expectation)

``read_tensors`` and ``write_tensors`` are the container alone, for other tensor files.
"""

from pfm_edge_runtime.bundle._bundle import Bundle
from pfm_edge_runtime.bundle._container import new_buffer, read_tensors, write_tensors
from pfm_edge_runtime.bundle._entries import ClassId, Entry, is_class_id, new_class_id
from pfm_edge_runtime.bundle._expectation import (
    Expectation,
    ModelBinding,
    Place,
    StatementDigest,
    TrustedKeys,
)
from pfm_edge_runtime.bundle._limits import BundleLimits
from pfm_edge_runtime.bundle._statement import EntryDigest, InputSpec, Statement
from pfm_edge_runtime.bundle._verified import VerifiedBundle

__all__ = [
    "Bundle",
    "BundleLimits",
    "ClassId",
    "Entry",
    "EntryDigest",
    "Expectation",
    "InputSpec",
    "ModelBinding",
    "Place",
    "Statement",
    "StatementDigest",
    "TrustedKeys",
    "VerifiedBundle",
    "is_class_id",
    "new_buffer",
    "new_class_id",
    "read_tensors",
    "write_tensors",
]
