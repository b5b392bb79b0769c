"""From a torch module to one ONNX file: dynamic batch, dynamic classes, the same bytes each time.

Owns everything that needs torch: tracing, conversion, and running the module as the reference
that the graph is compared with. Torch is imported by the functions that use it::

    data = OnnxFromTorch().export(source)
    report = check_parity(torch_reference(source), OnnxRuntimeBackend(data), source)
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

import numpy as np
from onnx import ModelProto

from pfm_edge_exporters._canonical import canonicalise, tidy, to_bytes
from pfm_edge_exporters._graph_rules import (
    BATCH,
    CLASSES,
    MAX_GRAPH_BYTES,
    OPSET,
    require_rules,
    require_valid,
)
from pfm_edge_exporters._noise import imaginary_classes, noise_images, normalised, seeded
from pfm_edge_exporters._parity import Reference
from pfm_edge_exporters._pixels import take_pixels
from pfm_edge_exporters._quiet import quiet_torch
from pfm_edge_exporters._source import FloatArray, TorchSource
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.backends import Outputs
from pfm_edge_runtime.manifest import Variant

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

__all__ = ["OnnxFromTorch", "torch_reference"]

# Two odd primes: no size of a model is likely to equal them by accident, neither is a multiple of
# the other, and neither is 0 or 1, for which torch.export would specialise the graph.
_TRACED_BATCH = 3
_TRACED_CLASSES = 5

_VARIANT = Variant("backbone.onnx", "fp32")  # what is made here; every other one is made from it

_PREFIX = "module."  # of every name that comes from the source's module, inside _positional

# What a module's own code may raise while it runs or is traced. Torch's exceptions (UserError,
# GuardOnDataDependentSymNode, OnnxExporterError) are RuntimeErrors.
_MODULE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

_SPECIALISED = re.compile(  # as torch 2.14 says it, and as 2.9 did
    r"(?:marked (\w+) as dynamic but your code specialized it|because (\w+) was inferred)"
    r" to be a constant \((\d+)\)"
)
_CONSTRAINED = re.compile(r"Not all values of (\w+) = .* satisfy the generated guard")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class OnnxFromTorch:
    """Exports a torch module as one ONNX file, opset 18, float32.

    Every image and class input and both outputs keep symbolic axes, ``batch`` and ``classes``; the
    graph holds standard operators alone. Where the source's image is uint8, the graph takes pixels
    and the normalisation is part of its patch embedding. Two exports of one model give the same
    bytes, from any folder and in any process: all that a file could tell about where it was made is
    removed.
    """

    def export(self, source: TorchSource) -> bytes:
        """Trace, convert, clean up and check; the module is left as it was.

        Args:
            source: What to export. Without class inputs, the graph has no classes axis.

        Returns:
            The contents of an ``.onnx`` file, weights included.

        Raises:
            ExportError: The module is no float32 module in evaluation mode on the CPU, has other
                outputs than promised, fixes a size that must stay free, branches on values, or
                uses what ONNX or the rules of the graph do not have.
        """
        _require_exportable(source)
        program = _trace(source)
        layer_norms = _count_layer_norms(program)
        model = _convert(program, source)
        del program  # it holds tensors of its own
        canonicalise(model, axes=_axes(source), prefix=_PREFIX)
        if source.image.dtype == "uint8":
            take_pixels(model, source)
            tidy(model)
        require_rules(model, source, _VARIANT, layer_norms=layer_norms)
        require_valid(model)
        return to_bytes(model)


def torch_reference(source: TorchSource) -> Reference:
    """Return the module as a function of NumPy arrays, for parity and golden vectors.

    The function raises ExportError where the module fails.
    """
    import torch

    def run(image: FloatArray, class_tensors: Mapping[str, FloatArray]) -> Outputs:
        arrays = (image, *(class_tensors[each.name] for each in source.class_inputs))
        try:
            with torch.inference_mode():
                # Copied: torch warns about arrays that it could write to by mistake.
                logits, embedding = source.module(*(torch.tensor(array) for array in arrays))
        except _MODULE_ERRORS as error:
            sizes = [list(array.shape) for array in arrays]
            raise ExportError(f"the model fails for inputs {sizes}: {_reason(error)}") from error
        return Outputs(logits.numpy(), embedding.numpy())

    return run


def _require_exportable(source: TorchSource) -> None:
    """Check the module and the machine before minutes are spent."""
    if find_spec("onnxscript") is None:
        raise ExportError("onnxscript is not installed: pip install 'pfm-edge-exporters[torch]'")
    names = [source.image.name, *(each.name for each in source.class_inputs)]
    taken = {*names, "logits", "embedding"}
    if len(taken) != len(names) + 2:
        raise ExportError(f"the inputs {names} and the outputs logits, embedding share a name")
    if any(module.training for module in source.module.modules()):
        raise ExportError("the module is in training mode: call eval() on it first")
    size = 0
    for name, tensor in source.module.state_dict(keep_vars=True).items():
        size += tensor.nbytes
        if tensor.device.type != "cpu":
            raise ExportError(f"tensor {name} is on {tensor.device}: move the module to the CPU")
        if tensor.is_floating_point() and tensor.element_size() != np.float32().nbytes:
            raise ExportError(f"tensor {name} is {tensor.dtype}: call float() on the module")
    if size > MAX_GRAPH_BYTES:
        raise ExportError(
            f"the module has {size / 2**30:.1f} GiB of weights, and one ONNX file holds 2 GiB: "
            "choose a smaller backbone"
        )


def _example(source: TorchSource) -> tuple["torch.Tensor", ...]:
    """Return inputs of the traced sizes, in the module's order."""
    import torch

    draw = seeded(source.model_id, "trace")
    images = normalised(noise_images(source.image, _TRACED_BATCH, draw), source.preprocessing)
    classes = imaginary_classes(source, _TRACED_CLASSES, draw)
    return tuple(torch.tensor(array) for array in (images, *classes.values()))


def _trace(source: TorchSource) -> "ExportedProgram":
    """Capture the module for every batch and every number of classes."""
    import torch

    example = _example(source)
    batch, classes = torch.export.Dim(BATCH), torch.export.Dim(CLASSES)
    axes: list[dict[int, object]] = [{0: batch}]
    axes += [{each.class_axis: classes} for each in source.class_inputs]
    module = _positional(source.module)
    try:
        with torch.no_grad(), quiet_torch():
            _require_outputs(module(*example), source)
            return torch.export.export(module, example, dynamic_shapes=(tuple(axes),), strict=False)
    except _MODULE_ERRORS as error:
        raise ExportError(f"the model cannot be traced: {_reason(error)}") from error


def _positional(module: "torch.nn.Module") -> "torch.nn.Module":
    """Wrap a module so that its inputs are one sequence, whatever its signature calls them."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> object:
            return self.module(*inputs)

    return Positional(module).eval()


def _require_outputs(outputs: object, source: TorchSource) -> None:
    """Check what the module gives for the example, before it is traced."""
    import torch

    if not (
        isinstance(outputs, tuple)
        and len(outputs) == 2  # noqa: PLR2004
        and all(isinstance(each, torch.Tensor) for each in outputs)
    ):
        raise ExportError("the module must return two tensors: logits and embedding")
    for name, tensor in zip(("logits", "embedding"), outputs, strict=True):
        shape = tuple(tensor.shape)
        if tensor.dtype != torch.float32:
            raise ExportError(f"the module gives {name} as {tensor.dtype}, not torch.float32")
        if len(shape) != 2 or shape[0] != _TRACED_BATCH:  # noqa: PLR2004
            raise ExportError(
                f"the module gives {name} as {list(shape)} for {_TRACED_BATCH} images: "
                "it must have two axes, the first of them the batch"
            )
    if source.class_inputs and outputs[0].shape[1] != _TRACED_CLASSES:
        raise ExportError(
            f"the module gives {outputs[0].shape[1]} logits for {_TRACED_CLASSES} classes"
        )


def _convert(program: "ExportedProgram", source: TorchSource) -> ModelProto:
    """Turn the captured program into ONNX; axes still have torch's names."""
    import torch

    try:
        with torch.no_grad(), quiet_torch():
            # Without dynamic_shapes: the program has them already, and giving them again makes
            # torch warn about every input that shares an axis with another.
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(_axes(source)),
                output_names=["logits", "embedding"],
                external_data=False,
                optimize=True,
                verbose=False,
            )
    except _MODULE_ERRORS as error:
        raise ExportError(f"the model has no ONNX form: {_reason(_root(error))}") from error
    return cast("torch.onnx.ONNXProgram", converted).model_proto


def _axes(source: TorchSource) -> dict[str, dict[int, str]]:
    """Return the symbolic axes of every input of the graph, in its order."""
    axes = {source.image.name: {0: BATCH}}
    return axes | {each.name: {each.class_axis: CLASSES} for each in source.class_inputs}


def _count_layer_norms(program: "ExportedProgram") -> int:
    """Count the calls of layer normalisation that differ in what they normalise."""
    import torch

    calls = (
        repr(node.args)
        for node in program.graph.nodes
        if node.target is torch.ops.aten.layer_norm.default
    )
    return len(set(calls))


def _root(error: BaseException) -> BaseException:
    """Return what first went wrong; torch wraps it in advice about filing an issue."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """Say in one line what torch says in thirty, and what to do about it."""
    text = _ANSI.sub("", str(error)).strip()
    if found := _SPECIALISED.search(text):
        axis, size = found[1] or found[2], found[3]
        return (
            f"it fixes the {axis} axis to {size}, the size it was traced with; compute with "
            "x.shape, not with len(x) or a number"
        )
    if found := _CONSTRAINED.search(text):
        return f"it branches on the size of the {found[1]} axis; one graph must fit all sizes"
    if "can't allocate memory" in text:
        return "this machine has not the memory for it; make images or the model smaller"
    if "data-dependent" in text:
        return "it branches on the values of a tensor; use torch.where instead of if"
    first = text.splitlines()[0] if text else "no reason given"
    return f"{type(error).__name__}: {first}"
