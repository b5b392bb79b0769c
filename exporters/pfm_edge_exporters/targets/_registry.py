"""The targets by name. A new one is a module and a row of this table.

find_target("triton").summary
"""

from types import MappingProxyType

from pfm_edge_exporters.targets import onnx
from pfm_edge_exporters.targets._target import Target
from pfm_edge_exporters.targets.ort_adapter import OrtAdapter
from pfm_edge_exporters.targets.tensorrt import TensorRt
from pfm_edge_exporters.targets.tensorrt_rtx import TensorRtRtx
from pfm_edge_exporters.targets.triton import Triton
from pfm_edge_runtime._phrases import nearest
from pfm_edge_runtime.errors import ConfigError

__all__ = ["TARGETS", "find_target"]

TARGETS = MappingProxyType(
    {each.name: each for each in (TensorRt(), TensorRtRtx(), Triton(), OrtAdapter())}
)


def find_target(name: str) -> Target:
    """Return the target of that name.

    Raises:
        ConfigError: There is none; the message has the nearest.
    """
    if name not in TARGETS:
        known = (onnx.NAME, *TARGETS)
        raise ConfigError(
            f"no target is named {name!r:.80}{nearest(name, known)}; there is {', '.join(known)}"
        )
    return TARGETS[name]
