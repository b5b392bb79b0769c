"""Target ``tensorrt-rtx``: an engine for GeForce and RTX GPUs, built on a machine without one.

Owns its options. It does not run on a Jetson: there it is the check that the graph builds, and
``tensorrt``, on the device, is the deployment::

    pfm-edge export model --target tensorrt-rtx -O compute-capabilities=8.6,8.9
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from pfm_edge_exporters.targets._engine import EngineOptions, EngineTarget
from pfm_edge_exporters.targets._options import option, words

__all__ = ["TensorRtRtx", "TensorRtRtxOptions"]


@dataclass(frozen=True, slots=True)
class TensorRtRtxOptions(EngineOptions):
    """What TensorRT for RTX takes; its timing cache and its builder levels do nothing."""

    compute_capabilities: tuple[str, ...] = option(
        (),
        parse=words,
        kind="8.6[,8.9,…]",
        help="GPUs to build for; by default one engine for Ampere and all later ones.",
    )

    def settings(self) -> dict[str, Any]:
        """Return what the builder is made with."""
        shared = EngineOptions.settings(self)
        return {**shared, "compute_capabilities": self.compute_capabilities}


class TensorRtRtx(EngineTarget):
    """The target."""

    name: ClassVar[str] = "tensorrt-rtx"
    summary: ClassVar[str] = "an engine for RTX GPUs; needs no GPU to build"
    module: ClassVar[str] = "tensorrt_rtx"
    options: ClassVar[type] = TensorRtRtxOptions
