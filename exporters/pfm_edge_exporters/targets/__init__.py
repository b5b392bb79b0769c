"""Targets beside ONNX: what a model package is turned into, one module each.

target = find_target("triton")
options = parse_options(target.name, target.options, ["max-batch=16"])
export_target(Path("model"), target, options, out=Path("repository"))

erase_classes(Path("repository/model"), {class_id})      # what a forget does
"""

from pfm_edge_exporters._build_progress import BuildProgress
from pfm_edge_exporters.targets._erase import erase_classes
from pfm_edge_exporters.targets._export import Announce, TargetReport, export_target
from pfm_edge_exporters.targets._options import OptionInfo, describe_options, parse_options
from pfm_edge_exporters.targets._registry import TARGETS, find_target
from pfm_edge_exporters.targets._target import Target
from pfm_edge_exporters.targets.onnx import SUMMARY as ONNX_SUMMARY
from pfm_edge_runtime.artefacts import (
    RECORD_FILE,
    TargetRecord,
    artefacts_in,
    is_artefact,
)

__all__ = [
    "ONNX_SUMMARY",
    "RECORD_FILE",
    "TARGETS",
    "Announce",
    "BuildProgress",
    "OptionInfo",
    "Target",
    "TargetRecord",
    "TargetReport",
    "artefacts_in",
    "describe_options",
    "erase_classes",
    "export_target",
    "find_target",
    "is_artefact",
    "parse_options",
]
