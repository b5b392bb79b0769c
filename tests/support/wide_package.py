"""A package whose rows are long enough to look for: 256 numbers a class and input, a real graph.

wide = write_wide_package(tmp_path / "model")
wide.rows(2)                  # the rows of class 2, by name
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pfm_edge_runtime.bundle import Bundle, ClassId, Entry, new_class_id, write_tensors
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.manifest import ClassInput, ImageInput, Manifest, Preprocessing, Variant
from tests.support.tiny_package import ISSUED_AT, MODEL_ID, SIDE
from tests.support.tiny_variants import make_static

WIDTH = 256
STATIC = Variant("backbone.static-6.onnx", "fp32", 6)
LABELS = ("persona-anna", "persona-bert", "persona-cleo", "persona-dora")
CLASS_INPUTS = (
    ClassInput("prompt_values", (2, WIDTH), 1),
    ClassInput("class_weight", (WIDTH,), 0),
    ClassInput("class_bias", (), 0),
)


@dataclass(frozen=True)
class WidePackage:
    directory: Path
    ids: tuple[ClassId, ...]

    @staticmethod
    def rows(index: int) -> dict[str, NDArray[np.float32]]:
        return rows_of(index)


def rows_of(index: int) -> dict[str, NDArray[np.float32]]:
    """Return the rows of one class."""
    draw = np.random.default_rng(1000 + index)
    return {
        "prompt_values": draw.standard_normal((2, WIDTH), dtype=np.float32),
        "class_weight": draw.standard_normal(WIDTH, dtype=np.float32),
        "class_bias": np.array(draw.standard_normal(), np.float32),
    }


def write_wide_package(directory: Path) -> WidePackage:
    """Write a package that knows four people, with a dynamic graph and a static one."""
    directory.mkdir(parents=True)
    files = {
        "backbone.onnx": _graph(),
        STATIC.file: _graph(STATIC.capacity),
        "golden.safetensors": write_tensors({}, {"purpose": "no"}),
    }
    manifest = Manifest(
        model_id=MODEL_ID,
        attention="prefix",
        image=ImageInput("image", (1, SIDE, SIDE)),
        class_inputs=CLASS_INPUTS,
        preprocessing=Preprocessing("L", SIDE, "bicubic", 1.0, "center", (0.5,), (0.5,)),
        variants=(Variant("backbone.onnx", "fp32"), STATIC),
        files={name: digest_of(data) for name, data in files.items()},
        created_with={"tests": "1"},
    ).to_bytes()
    ids = tuple(new_class_id() for _ in LABELS)
    bundle = Bundle.build(
        model_id=MODEL_ID,
        manifest_digests=[digest_of(manifest)],
        inputs=tuple((each.name, each.slice_shape) for each in CLASS_INPUTS),
        entries=[
            Entry(class_id=ids[index], label=label, tensors=rows_of(index))
            for index, label in enumerate(LABELS)
        ],
        issued_at=ISSUED_AT,
    )
    everything: Mapping[str, bytes] = {
        **files,
        "manifest.json": manifest,
        "bundle.safetensors": bundle.to_bytes(),
    }
    for name, data in everything.items():
        (directory / name).write_bytes(data)
    return WidePackage(directory, ids)


def _graph(capacity: int | None = None) -> bytes:
    def value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    projection = np.random.default_rng(7).standard_normal((SIDE * SIDE, WIDTH), dtype=np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["pixels"], axis=1),
        helper.make_node("MatMul", ["pixels", "projection"], ["features"]),
        helper.make_node("ReduceMean", ["prompt_values", "axes"], ["shift"], keepdims=0),
        helper.make_node("Add", ["features", "shift"], ["embedding"]),
        helper.make_node("Transpose", ["class_weight"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["embedding", "head"], ["products"]),
        helper.make_node("Add", ["products", "class_bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [
            value("image", ["batch", 1, SIDE, SIDE]),
            value("prompt_values", [2, "classes", WIDTH]),
            value("class_weight", ["classes", WIDTH]),
            value("class_bias", ["classes"]),
        ],
        [value("logits", ["batch", "classes"]), value("embedding", ["batch", WIDTH])],
        initializer=[
            numpy_helper.from_array(projection, "projection"),
            numpy_helper.from_array(np.array([0, 1], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if capacity is not None:
        make_static(model, capacity, None)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
