"""From a safetensors file into a timm model: all of it, or an error that says what differs.

Owns the one liberty that is taken: positions of another grid, embedded or in tables of biases, are
resampled by timm's own functions. Nothing else is adapted, dropped or left at random::

    load_into(timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=84), path)
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from torch import Tensor, nn

from pfm_edge.errors import WeightsError

__all__ = ["load_into", "quiet_resampling"]

_POSITION = "pos_embed"
_BIASES = "relative_position_bias_table"
_HEADS = ("head.", "head_dist.")  # the second is distillation's
_MOST_TOLD = 3


def load_into(model: nn.Module, path: Path) -> None:
    """Load a safetensors file of timm's names into a model, in place.

    Position embeddings and bias tables are resampled where the model's have another length; those
    of the same length are taken to be of the same grid. A classifier in the file (``head.*``) is
    passed over where the model has none. Values take the model's dtype.

    Raises:
        WeightsError: No such file, no safetensors, values that are not finite, or tensors that are
            missing, unknown or of another shape: the model is as it was.
    """
    expected = model.state_dict()
    tensors = _read(path)
    if not any(name.startswith(_HEADS) for name in expected):
        tensors = {name: t for name, t in tensors.items() if not name.startswith(_HEADS)}
    _resample_position(tensors, model, path)
    _resample_biases(tensors, model, path)
    differences = _differences(tensors, expected)
    if differences:
        raise WeightsError(
            f"{path}: does not fit the model ({'; '.join(differences)}); give weights of this "
            "architecture, or the architecture of these weights"
        )
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path}: {name} holds values that are not finite; import it again")
    model.load_state_dict(tensors, strict=True)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{path}: not a safetensors file ({reason}); other formats are not read, convert it"
        ) from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise WeightsError(f"{path}: cannot be read ({reason}); check backbone.weights") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise WeightsError(f"{path}: {name} is {tensor.dtype}; weights are floating-point")
    return tensors


def _resample_position(tensors: dict[str, Tensor], model: Any, path: Path) -> None:
    """Replace the position embedding by one for the model's grid, where the lengths differ."""
    found, wanted = tensors.get(_POSITION), getattr(model, _POSITION, None)
    if found is None or not isinstance(wanted, Tensor) or found.ndim != wanted.ndim:
        return
    if found.shape[1] == wanted.shape[1] or found.shape[::2] != wanted.shape[::2]:
        return
    # As in timm's checkpoint_filter_fn.
    prefix = 0 if getattr(model, "no_embed_class", False) else model.num_prefix_tokens
    grid = found.shape[1] - prefix
    if grid < 1 or math.isqrt(grid) ** 2 != grid:
        raise WeightsError(
            f"{path}: {_POSITION} holds {found.shape[1]} tokens, which is no square grid and "
            f"{prefix} more; set backbone.arguments.img_size to what it was made for"
        )
    tensors[_POSITION] = resample_abs_pos_embed(
        found, new_size=list(model.patch_embed.grid_size), num_prefix_tokens=prefix
    )


def _resample_biases(tensors: dict[str, Tensor], model: Any, path: Path) -> None:
    """Replace tables of relative positions by ones for the model's grid, where they differ."""
    expected = model.state_dict()
    for name in [each for each in tensors if each.endswith(_BIASES) and each in expected]:
        found, wanted = tensors[name], expected[name]
        if found.ndim != wanted.ndim or found.shape[1:] != wanted.shape[1:]:
            continue
        if found.shape != wanted.shape:
            window = model.get_submodule(name.rpartition(".")[0]).window_size
            try:
                with quiet_resampling():
                    tensors[name] = resize_rel_pos_bias_table(found, window, tuple(wanted.shape))
            except (RuntimeError, ValueError) as error:
                raise WeightsError(
                    f"{path}: {name} holds {found.shape[0]} rows, which are of no square grid; set "
                    "backbone.arguments.img_size to what it was made for"
                ) from error


@contextmanager
def quiet_resampling() -> Iterator[None]:
    """Keep back what torch has to say about the way timm resamples bias tables."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)
        warnings.filterwarnings("ignore", r"torch\.searchsorted.*non-contiguous", UserWarning)
        yield


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Describe what keeps ``found`` from being loaded; nothing if nothing does."""
    shapes = [
        f"{name} has shape {list(found[name].shape)}, the model's has {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    told = []
    if shapes:
        told.append(_some(shapes))
    if missing:
        told.append(f"missing: {_some(missing)}")
    if unknown:
        told.append(f"not of the model: {_some(unknown)}")
    return told


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _MOST_TOLD} more" if len(items) > _MOST_TOLD else ""
    return ", ".join(items[:_MOST_TOLD]) + more
