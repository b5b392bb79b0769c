"""Packages with several graphs: the tiny and the wide one, made static, uint8 and coarse by hand.

A static graph needs its mask: absent rows count as zeros wherever rows are added up, and their
logits are minus infinity. A coarse one has weights that were rounded to seven bits of mantissa::

    variants = (DYNAMIC, Variant("backbone.static-6.onnx", "fp32", 6, 2))
    tiny = write_variants(tmp_path / "model", variants)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.manifest import MASK_INPUT, ImageInput, PixelType, Variant
from tests.support.tiny_package import (
    IMAGE,
    LABELS,
    MODEL_ID,
    TinyPackage,
    build_bundle,
    tiny_golden,
    tiny_graph,
    tiny_manifest,
)

DYNAMIC = Variant("backbone.onnx", "fp32")
STATIC = Variant("backbone.static-6.onnx", "fp32", 6)
FIXED = Variant("backbone.static-7.onnx", "fp32", 7, 3)
HALF = Variant("backbone.fp16.onnx", "fp16")
BYTES = Variant("backbone.int8.static-5.onnx", "int8", 5, 1)


def write_variants(
    directory: Path,
    variants: Sequence[Variant],
    *,
    dtype: PixelType = "float32",
    classes: int = len(LABELS),
    graphs: Mapping[str, bytes] | None = None,
) -> TinyPackage:
    """Write a tiny package with these graphs; ``graphs`` replaces some of them."""
    directory.mkdir(parents=True)
    files = {each.file: variant_graph(each, dtype) for each in variants} | dict(graphs or {})
    files["golden.safetensors"] = tiny_golden(MODEL_ID, dtype)
    manifest = replace(
        tiny_manifest(files),
        variants=tuple(variants),
        image=ImageInput(IMAGE.name, IMAGE.shape, dtype),
    )
    bundle = build_bundle(manifest.to_bytes(), LABELS[:classes])
    files |= {"manifest.json": manifest.to_bytes(), "bundle.safetensors": bundle.to_bytes()}
    for name, data in files.items():
        (directory / name).write_bytes(data)
    assert set(manifest.files) == set(files) - {"manifest.json", "bundle.safetensors"}
    assert manifest.files["golden.safetensors"] == digest_of(files["golden.safetensors"])
    return TinyPackage(directory, manifest, bundle)


def variant_graph(variant: Variant, dtype: PixelType = "float32") -> bytes:
    """Return the tiny graph as a variant says it is."""
    model = onnx.load_from_string(tiny_graph())
    if variant.precision != "fp32":
        _round_weights(model)
    if dtype == "uint8":
        _take_pixels(model)
    if variant.capacity is not None:
        make_static(model, variant.capacity, variant.batch)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def make_static(model: ModelProto, capacity: int, batch: int | None) -> None:
    """Give a graph a fixed number of class rows, of which a mask says which are there."""
    graph = model.graph
    sizes = {"classes": capacity} | ({} if batch is None else {"batch": batch})
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    graph.input.append(helper.make_tensor_value_info(MASK_INPUT, TensorProto.BOOL, [capacity]))
    constants = {
        "mask_shape": np.array([1, -1, 1], np.int64),
        "nothing": np.array(0, np.float32),
        "never": np.array(-np.inf, np.float32),
    }
    graph.initializer.extend(
        numpy_helper.from_array(each, name) for name, each in constants.items()
    )
    _rename(graph.node, "prompt_values", "present_values", outputs=False)
    _rename(graph.node, "logits", "all_logits", outputs=True)
    before = [
        helper.make_node("Reshape", [MASK_INPUT, "mask_shape"], ["prompt_mask"]),
        helper.make_node("Where", ["prompt_mask", "prompt_values", "nothing"], ["present_values"]),
    ]
    after = helper.make_node("Where", [MASK_INPUT, "all_logits", "never"], ["logits"])
    _replace_nodes(model, [*before, *graph.node, after])


def _take_pixels(model: ModelProto) -> None:
    """Let a graph take uint8 pixels, and scale and normalise them itself."""
    graph = model.graph
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    constants = {"pixel": np.array(1 / 127.5, np.float32), "one": np.array(1, np.float32)}
    graph.initializer.extend(
        numpy_helper.from_array(each, name) for name, each in constants.items()
    )
    _rename(graph.node, "image", "normalised", outputs=False)
    before = [
        helper.make_node("Cast", ["image"], ["pixels_as_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels_as_float", "pixel"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["normalised"]),
    ]
    _replace_nodes(model, [*before, *graph.node])


def _round_weights(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            bits = (array.view(np.uint32) + np.uint32(1 << 15)) & np.uint32(0xFFFF0000)
            tensor.CopyFrom(numpy_helper.from_array(bits.view(np.float32), tensor.name))


def _rename(nodes: Sequence[NodeProto], old: str, new: str, *, outputs: bool) -> None:
    for node in nodes:
        names = node.output if outputs else node.input
        for index, name in enumerate(names):
            if name == old:
                names[index] = new


def _replace_nodes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    kept = [NodeProto.FromString(each.SerializeToString()) for each in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
