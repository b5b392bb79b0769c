"""A model package small enough for a unit test, and real: ONNX Runtime runs its graph.

An image is 4 by 4 pixels, grey; class i is "the i-th quarter is bright". The graph has what the
real ones have: a flattening of the image, class rows of a head, and a prompt whose class axis is
not the first and which moves the embedding, so that forgetting a class changes it::

    tiny = write_tiny_package(tmp_path / "model")
    Classifier.open(tiny.directory).predict(quarter(2)).label == LABELS[2]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pfm_edge_runtime.bundle import Bundle, ClassId, Entry, write_tensors
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.manifest import (
    ClassInput,
    ImageInput,
    Manifest,
    ModelId,
    PixelType,
    Preprocessing,
    Variant,
)

LABELS = ("daisy", "rose", "tulip", "violet")
SIDE, WIDTH, LAYERS = 4, 4, 2
MODEL_ID = ModelId("sha256:" + "5e" * 32)
ISSUED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)  # noqa: UP017 (Python 3.10 has no UTC)
IMAGE = ImageInput("image", (1, SIDE, SIDE))
CLASS_INPUTS = (
    ClassInput("prompt_values", (LAYERS, WIDTH), 1),
    ClassInput("class_weight", (WIDTH,), 0),
    ClassInput("class_bias", (), 0),
)
INPUTS = tuple((each.name, each.slice_shape) for each in CLASS_INPUTS)
PREPROCESSING = Preprocessing("L", SIDE, "bicubic", 1.0, "center", (0.5,), (0.5,))

_PROMPT_SCALE = 0.2


@dataclass(frozen=True)
class TinyPackage:
    directory: Path
    manifest: Manifest
    bundle: Bundle

    def __str__(self) -> str:  # as an argument of a command
        return str(self.directory)

    @property
    def bundle_path(self) -> Path:
        return self.directory / "bundle.safetensors"

    def class_id(self, label: str) -> ClassId:
        return self.bundle.class_ids[self.bundle.labels.index(label)]


def quarter(index: int) -> NDArray[np.uint8]:
    """Return an image whose given quarter is bright, and the rest black."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    row, column = divmod(index, 2)
    image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 255
    return image


def class_tensors(index: int) -> dict[str, NDArray[np.float32]]:
    """Return the slices of one class: the bright quarter's direction, and a fixed prompt."""
    prompt = np.random.default_rng(index).uniform(0.2, 1.0, (LAYERS, WIDTH))
    return {
        "prompt_values": prompt.astype(np.float32),
        "class_weight": np.eye(WIDTH, dtype=np.float32)[index % WIDTH] * 4,
        "class_bias": np.array(index / 10, np.float32),
    }


def entries(labels: Sequence[str] = LABELS) -> list[Entry]:
    """Return one entry per label; its id and salt are fixed, so that bytes are comparable."""
    return [
        Entry(
            class_id=ClassId(f"{(60 * index + 3) % 97:032x}"),
            label=label,
            tensors=class_tensors(index),
            salt=f"{index:032x}",
        )
        for index, label in enumerate(labels)
    ]


def build_bundle(
    manifest: bytes,
    labels: Sequence[str] = LABELS,
    *,
    sequence: int = 1,
    issued_at: datetime = ISSUED_AT,
    key: SigningKey | None = None,
) -> Bundle:
    """Issue the bundle of these classes for a manifest."""
    bundle = Bundle.build(
        model_id=Manifest.from_bytes(manifest).model_id if manifest != b"{}" else MODEL_ID,
        manifest_digests=[digest_of(manifest)],
        inputs=INPUTS,
        entries=entries(labels),
        issued_at=issued_at,
        sequence=sequence,
    )
    return bundle if key is None else bundle.signed_by(key)


def tiny_manifest(files: Mapping[str, bytes], model_id: ModelId = MODEL_ID) -> Manifest:
    """Return the manifest of a package with these files."""
    return Manifest(
        model_id=model_id,
        attention="prefix",
        image=IMAGE,
        class_inputs=CLASS_INPUTS,
        preprocessing=PREPROCESSING,
        variants=(Variant("backbone.onnx", "fp32"),),
        files={name: digest_of(data) for name, data in files.items()},
        created_with={"tests": "1"},
    )


def write_tiny_package(
    directory: Path,
    *,
    classes: int = len(LABELS),
    graph: bytes | None = None,
    model_id: ModelId = MODEL_ID,
    sequence: int = 1,
    key: SigningKey | None = None,
) -> TinyPackage:
    """Write a whole package that knows the first labels; ``graph`` replaces the real one."""
    directory.mkdir(parents=True)
    files = {
        "backbone.onnx": tiny_graph() if graph is None else graph,
        "golden.safetensors": tiny_golden(model_id),
    }
    manifest = tiny_manifest(files, model_id)
    bundle = build_bundle(manifest.to_bytes(), LABELS[:classes], sequence=sequence, key=key)
    files |= {"manifest.json": manifest.to_bytes(), "bundle.safetensors": bundle.to_bytes()}
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return TinyPackage(directory, manifest, bundle)


def reference(
    image: NDArray[np.float32], tensors: Mapping[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute logits and embedding as the graph does, in NumPy; tensors in the graph's shape."""
    flat = image.reshape(len(image), -1) @ _projection()
    prompts = tensors["prompt_values"].sum(axis=(0, 1)) * np.float32(_PROMPT_SCALE)
    embedding = flat + prompts
    logits = embedding @ tensors["class_weight"].T + tensors["class_bias"]
    return logits.astype(np.float32), embedding.astype(np.float32)


def tiny_golden(model_id: ModelId, dtype: PixelType = "float32") -> bytes:
    """Return golden vectors for the graph, as an exporter records them."""
    images = np.random.default_rng(1).integers(0, 256, (5, *IMAGE.shape)).astype(np.float32)
    normalised = images / np.float32(127.5) - 1
    tensors = {"image": images if dtype == "uint8" else normalised}
    for count in (1, 2, 7):
        # Of nobody's class, as an exporter's are: what is forgotten must not stay in this file.
        slices = [class_tensors(100 + index) for index in range(count)]
        inputs = {
            each.name: np.stack([found[each.name] for found in slices], axis=each.class_axis)
            for each in CLASS_INPUTS
        }
        logits, embedding = reference(normalised, inputs)
        tensors |= {f"c{count}.input.{name}": array for name, array in inputs.items()}
        tensors |= {f"c{count}.output.logits": logits, f"c{count}.output.embedding": embedding}
    return write_tensors(tensors, {"model_id": model_id, "pfm_golden": "1"})


def tiny_graph() -> bytes:
    """Return the graph, opset 18, IR 10, with symbolic batch and class axes."""
    inputs = [_value("image", ["batch", *IMAGE.shape])]
    for each in CLASS_INPUTS:
        shape: list[int | str] = [*each.slice_shape]
        shape.insert(each.class_axis, "classes")
        inputs.append(_value(each.name, shape))
    outputs = [_value("logits", ["batch", "classes"]), _value("embedding", ["batch", WIDTH])]
    constants = {
        "projection": _projection(),
        "scale": np.array(_PROMPT_SCALE, np.float32),
        "axes": np.array([0, 1], np.int64),
    }
    nodes = [
        helper.make_node("Flatten", ["image"], ["pixels"], axis=1),
        helper.make_node("MatMul", ["pixels", "projection"], ["features"]),
        helper.make_node("ReduceSum", ["prompt_values", "axes"], ["prompts"], keepdims=0),
        helper.make_node("Mul", ["prompts", "scale"], ["shift"]),
        helper.make_node("Add", ["features", "shift"], ["embedding"]),
        helper.make_node("Transpose", ["class_weight"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["embedding", "head"], ["products"]),
        helper.make_node("Add", ["products", "class_bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        outputs,
        initializer=[numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _projection() -> NDArray[np.float32]:
    """Return [pixels, width]: the mean brightness of each quarter."""
    columns = [quarter(index).reshape(-1) for index in range(WIDTH)]
    return (np.stack(columns, axis=1) / (255 * SIDE)).astype(np.float32)
