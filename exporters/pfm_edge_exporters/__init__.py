"""Exporters: a pre-forgettable backbone, once, for every target.

The one thing most callers need::

    options = ExportOptions(max_classes=10, precisions=("fp16",))
    report = export_package(source, Path("model"), options, bundle=make_bundle)

Importing this package does not import torch; exporting does.
"""

from pfm_edge_exporters._parity import (
    ParityReport,
    Reference,
    check_parity,
    parity_classes,
)
from pfm_edge_exporters._places import discard_package, require_place
from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters.errors import ExportError, ParityError
from pfm_edge_exporters.golden import make_golden
from pfm_edge_exporters.identity import compute_model_id
from pfm_edge_exporters.onnx_from_torch import OnnxFromTorch, torch_reference
from pfm_edge_exporters.options import Calibration, ExportOptions, HeldOut, Machine
from pfm_edge_exporters.package import ExportReport, export_package
from pfm_edge_exporters.verification import (
    GraphReport,
    VerificationReport,
    check_golden,
    verify_package,
)

__all__ = [
    "Calibration",
    "ExportError",
    "ExportOptions",
    "ExportReport",
    "GraphReport",
    "HeldOut",
    "Machine",
    "OnnxFromTorch",
    "ParityError",
    "ParityReport",
    "Reference",
    "TorchSource",
    "VerificationReport",
    "check_golden",
    "check_parity",
    "compute_model_id",
    "discard_package",
    "export_package",
    "make_golden",
    "parity_classes",
    "require_place",
    "torch_reference",
    "verify_package",
]
