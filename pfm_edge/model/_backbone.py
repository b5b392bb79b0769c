"""The timm backbone: made from a configuration, checked, described for a manifest.

What no block adapter runs is refused by name, before anything is trained.
"""

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import timm
import torch
from timm.data import resolve_data_config

from pfm_edge.config import BackboneConfig
from pfm_edge.model._blocks import Backbone
from pfm_edge.model._families import NAMES, require_supported
from pfm_edge.weights import load_into
from pfm_edge_runtime.errors import ConfigError
from pfm_edge_runtime.manifest import CropMode, ImageInput, Interpolation, Preprocessing

__all__ = [
    "create_backbone",
    "image_input",
    "preprocessing",
    "require_embedding",
    "timm_errors",
]

_RESERVED = (  # ours to set, or a way around what we check
    "checkpoint_path",
    "device",
    "dtype",
    "dynamic_img_size",
    "features_only",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "scriptable",
)
# What timm and torch raise for arguments that make no sense.
_LIBRARY_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def create_backbone(config: BackboneConfig) -> Backbone:
    """Make the timm backbone that a configuration describes, without a head, in eval mode.

    Raises:
        ConfigError: the model is unknown to timm, is no supported ViT, or takes no such argument.
        WeightsError: the weights file does not fit.
    """
    if config.model.split(".")[0] not in timm.list_models():
        known = timm.list_models(list(NAMES))
        near = difflib.get_close_matches(config.model, known, n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"backbone.model: timm knows no model '{config.model}'{hint}")
    for name in _RESERVED:
        if name in config.arguments:
            raise ConfigError(f"backbone.arguments.{name}: pfm-edge decides that itself; remove it")
    with timm_errors(f"timm cannot make '{config.model}'"):
        try:
            model = timm.create_model(
                config.model, pretrained=config.pretrained, num_classes=0, **config.arguments
            )
        except TypeError:  # a type that takes no such argument may be none of ours anyway
            _require_supported_type(config.model)
            raise
    require_supported(config.model, model)
    _write_out_pooling(model)
    with timm_errors(f"'{config.model}' does not run"):
        require_embedding(config.model, model.eval())
    if config.weights is not None:
        load_into(model, config.weights)
    return model.eval()


def image_input(backbone: Backbone) -> ImageInput:
    """Describe the backbone's image input: float32 [batch, channels, height, width]."""
    height, width = backbone.patch_embed.img_size
    channels = backbone.patch_embed.proj.in_channels
    return ImageInput(name="image", shape=(channels, height, width))


def preprocessing(config: BackboneConfig, backbone: Backbone) -> Preprocessing:
    """Resolve how pixels become the image input: timm's values, then the configuration's.

    Raises:
        ConfigError: a mean or std of another number of channels, or a crop or interpolation that
            the device cannot reproduce.
    """
    resolved = resolve_data_config({}, pretrained_cfg=backbone.pretrained_cfg)
    channels, height, width = image_input(backbone).shape
    if channels not in (1, 3):
        raise ConfigError(f"backbone: {channels} input channels; images have 1 or 3")
    crop_pct = config.crop_pct or float(resolved["crop_pct"])
    crop_mode: Any = resolved["crop_mode"] or "center"
    interpolation: Any = config.interpolation or resolved["interpolation"]
    if crop_mode not in get_args(CropMode) or interpolation not in get_args(Interpolation):
        raise ConfigError(
            f"backbone: '{config.model}' crops by '{crop_mode}' and interpolates by "
            f"'{interpolation}'; set backbone.interpolation, or choose another model"
        )
    return Preprocessing(
        mode="L" if channels == 1 else "RGB",
        resize=math.floor(min(height, width) / crop_pct),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=_per_channel("mean", config.mean or resolved["mean"], channels),
        std=_per_channel("std", config.std or resolved["std"], channels),
    )


@contextmanager
def timm_errors(what: str, fix: str = "check backbone.arguments") -> Iterator[None]:
    """Turn what timm and torch raise into one line: what went wrong, why, and what to do."""
    try:
        yield
    except _LIBRARY_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"backbone: {what} ({reason[:300]}); {fix}") from error


def _require_supported_type(name: str) -> None:
    """Refuse a model by its type, made without arguments and without memory for its weights."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
    except _LIBRARY_ERRORS:
        return  # nothing is known of it then
    require_supported(name, model)


def _write_out_pooling(model: Backbone) -> None:
    """Let attention pooling be MatMul and Softmax: with one query, fusing saves nothing."""
    if getattr(model, "attn_pool", None) is not None:
        model.attn_pool.fused_attn = False


@torch.inference_mode()
def require_embedding(name: str, model: Backbone) -> None:
    """Run two blank images: what is wrong with a shape shows here, not after minutes."""
    shape = tuple(model(torch.zeros(2, *image_input(model).shape)).shape)
    if shape != (2, model.num_features) or not len(model.blocks):
        raise ConfigError(
            f"backbone: '{name}' gives {list(shape)} for two images from {len(model.blocks)} "
            f"blocks, not [2, {model.num_features}]; check backbone.arguments"
        )


def _per_channel(name: str, given: Iterable[float], channels: int) -> tuple[float, ...]:
    values = tuple(float(value) for value in given)
    if len(values) == channels:
        return values
    if channels == 1:  # a grey model of a colour recipe: the mean over the channels
        return (sum(values) / len(values),)
    raise ConfigError(f"backbone.{name}: {len(values)} values for {channels} channels")
