"""The part of TensorRT 10.3's Python API that a build touches, recorded; it builds nothing.

TensorRT itself needs its GPU. Names, signatures and enumerations are those of its reference; what
is called is written down, and what goes wrong can be chosen::

    fake = FakeTensorRt()
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    ...
    fake.calls          # [("create_network", 2), ("set_flag", "VERSION_COMPATIBLE"), …]
"""

from enum import IntEnum
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx


class FakeTensorRt:
    """A module named tensorrt.

    Args:
        version: What it says its version is.
        plan: What a build gives; None fails, after ``complaint`` was logged.
        complaint: What the logger is told, as an error.
        no_gpu: Whether the builder cannot be made, as without a driver.
    """

    def __init__(
        self,
        version: str = "10.3.0",
        plan: bytes | None = b"plan",
        complaint: str = "",
        no_gpu: bool = False,
    ) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.plan, self.complaint, self.no_gpu = plan, complaint, no_gpu
        self.module = ModuleType("tensorrt")
        self.module.__dict__.update(_surface(self), __version__=version)


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1  # 0 is EXPLICIT_BATCH, deprecated


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class HardwareCompatibilityLevel(IntEnum):
    NONE = 0
    AMPERE_PLUS = 1


class BuilderFlag(IntEnum):
    VERSION_COMPATIBLE = 14


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class IProgressMonitor:
    pass


class Profile(dict[str, Any]):
    def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
        self[name] = (tuple(least), tuple(best), tuple(most))


class Config:
    progress_monitor: Any = None
    hardware_compatibility_level = HardwareCompatibilityLevel.NONE
    builder_optimization_level = 3

    def __init__(self, fake: FakeTensorRt) -> None:
        self._calls = fake.calls

    def add_optimization_profile(self, profile: Profile) -> int:
        self._calls.append(("profile", dict(profile)))
        return 0

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self._calls.append(("set_memory_pool_limit", pool.name, size))

    def set_flag(self, flag: BuilderFlag) -> None:
        self._calls.append(("set_flag", flag.name))

    def create_timing_cache(self, data: bytes) -> Any:
        self._calls.append(("create_timing_cache", data))
        return SimpleNamespace(serialize=lambda: data + b"+measured")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        return not cache.serialize().startswith(b"foreign")


class Builder:
    def __init__(self, fake: FakeTensorRt, logger: Any) -> None:
        self._fake, self._logger = fake, logger
        if fake.no_gpu:
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int) -> Any:
        self._fake.calls.append(("create_network", flags))
        return SimpleNamespace(num_layers=7)

    def create_builder_config(self) -> Config:
        return Config(self._fake)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        self._fake.calls.append(("level", config.builder_optimization_level))
        self._fake.calls.append(("hardware", config.hardware_compatibility_level.name))
        config.progress_monitor.phase_start("Building", None, 2)
        for step in range(2):
            if not config.progress_monitor.step_complete("Building", step):
                return None
        config.progress_monitor.phase_finish("Building")
        if self._fake.complaint:
            self._logger.log(ILogger.ERROR, self._fake.complaint)
        return self._fake.plan


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Any, logger: Any) -> None:
        self._network = network

    def parse(self, data: bytes) -> bool:
        inputs = [_tensor(each) for each in onnx.load_from_string(data).graph.input]
        self._network.num_inputs, self._network.get_input = len(inputs), inputs.__getitem__
        return True


_NAMES = (
    BuilderFlag,
    HardwareCompatibilityLevel,
    ILogger,
    IProgressMonitor,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    OnnxParser,
)


def _surface(fake: FakeTensorRt) -> dict[str, object]:
    return {each.__name__: each for each in _NAMES} | {"Builder": partial(Builder, fake)}


def _tensor(value: onnx.ValueInfoProto) -> Any:
    dims = value.type.tensor_type.shape.dim
    return SimpleNamespace(
        name=value.name,
        shape=tuple(each.dim_value or -1 for each in dims),
        get_dimension_name=lambda axis: dims[axis].dim_param,
    )
