"""Which of timm's models are supported, and which block adapter runs each.

Owns the registry, by the exact types of model, block and attention, and the reasons why the others
are refused::

    require_supported("vit_small_patch16_224", model)    # or a ConfigError that says why not
    blocks = adapter_of(model)
"""

from timm.layers import PatchEmbed
from timm.layers.attention import AttentionRope
from timm.models import (
    Beit,
    Eva,
    VisionTransformer,
    VisionTransformerDistilled,
    VisionTransformerRelPos,
)
from timm.models import beit as beit_layers
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Attention, Block, ResPostBlock
from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
)

from pfm_edge.model._bias_blocks import BeitBlocks, RelativeBlocks
from pfm_edge.model._blocks import Backbone, BlockAdapter
from pfm_edge.model._eva_blocks import EvaBlocks
from pfm_edge.model._vit_blocks import VitBlocks
from pfm_edge_runtime.errors import ConfigError

__all__ = ["NAMES", "WHY_NOT", "adapter_of", "require_supported"]

NAMES = ("vit_*", "deit*", "eva*", "beit*", "aimv2_*", "flexivit_*")
"""What the names of supported models look like."""

_ADAPTERS: dict[tuple[type, type, type], BlockAdapter] = {
    (Beit, beit_layers.Block, beit_layers.Attention): BeitBlocks(),
    (Eva, EvaBlock, AttentionRope): EvaBlocks(),
    (Eva, EvaBlock, EvaAttention): EvaBlocks(),
    (Eva, EvaBlockPostNorm, EvaAttention): EvaBlocks(post_norm=True),
    (VisionTransformer, Block, Attention): VitBlocks(),
    (VisionTransformer, ResPostBlock, Attention): VitBlocks(post_norm=True),
    (VisionTransformerDistilled, Block, Attention): VitBlocks(),
    (VisionTransformerRelPos, RelPosBlock, RelPosAttention): RelativeBlocks(),
    (VisionTransformerRelPos, ResPostRelPosBlock, RelPosAttention): RelativeBlocks(post_norm=True),
}
_MODELS = {model for model, _, _ in _ADAPTERS}
_BLOCKS = {block for _, block, _ in _ADAPTERS}

_WINDOWS = "it attends within windows, and a prompt is in none of them"
_STAGES = "it merges its tokens from stage to stage, and prompts do not merge"
_ANY_SIZE = "it takes images of any size, and a graph has one"
_ONE_MATRIX = "attention and MLP share one projection, which no adapter takes apart"
_OTHER_BLOCKS = "its blocks are none that pfm-edge can give prompts to"
_OTHER_PATCHES = "its patches are made otherwise than by one convolution"
_NO_TOKENS = "it is no transformer of tokens, so it has no place for a prompt"
WHY_NOT = {
    "Cait": "its heads mix their scores, so a prompt's softmax is not its own",
    "ConVit": "its gates mix attention with positions, and a prompt has none",
    "CrossVit": "it has two branches of different width, and a prompt has one width",
    "DeepseekVitClassifier": _ANY_SIZE,
    "DeepseekVitEncoder": _ANY_SIZE,
    "DiffAttention": "it subtracts two softmaxes, so a lone prompt does not read its own value",
    "DiffParallelScalingBlock": _ONE_MATRIX,
    "Gemma4VitClassifier": _ANY_SIZE,
    "Gemma4VitEncoder": _ANY_SIZE,
    "Hiera": _STAGES,
    "HybridEmbed": "a convolutional network makes its patches, where one convolution should",
    "MultiScaleVit": _STAGES,
    "NaFlexVit": _ANY_SIZE,
    "ParallelScalingBlock": _ONE_MATRIX,
    "ParallelThingsBlock": "it attends twice at once, and a prompt has one key for each layer",
    "PoolingVisionTransformer": _STAGES,
    "Qwen3VitClassifier": _ANY_SIZE,
    "Qwen3VitEncoder": _ANY_SIZE,
    "SwinTransformer": _WINDOWS,
    "SwinTransformerV2": _WINDOWS,
    "SwinTransformerV2Cr": _WINDOWS,
    "TNT": "it attends within patches too, where no prompt can be",
    "VisionTransformerSAM": _WINDOWS,
    "Xcit": "it attends over channels and not over tokens, and a prompt is a token",
}
"""Why a type is not supported: of a model, of its patches, of its blocks or of their attention."""


def adapter_of(backbone: Backbone) -> BlockAdapter:
    """Return what runs the blocks of a supported backbone."""
    block = backbone.blocks[0]
    return _ADAPTERS[type(backbone), type(block), type(block.attn)]


def require_supported(name: str, model: Backbone) -> None:
    """Refuse a model that no adapter runs.

    Raises:
        ConfigError: with the name, what is not supported, and why.
    """
    found = _unsupported(model)
    if found is None:
        return
    what, kind = found
    why = WHY_NOT.get(kind) or _general_reason(model)
    raise ConfigError(
        f"backbone.model: '{name}' {what} {kind}: {why}; choose a plain vision transformer of "
        f"timm ({', '.join(NAMES)})"
    )


def _general_reason(model: Backbone) -> str:
    """Say of a type that is not in `WHY_NOT` what is true of all of its kind."""
    if type(model) in _MODELS:
        return _OTHER_BLOCKS if type(model.patch_embed) is PatchEmbed else _OTHER_PATCHES
    attends = any(hasattr(each, "num_heads") or hasattr(each, "qkv") for each in model.modules())
    return _OTHER_BLOCKS if attends else _NO_TOKENS


def _unsupported(model: Backbone) -> tuple[str, str] | None:
    """Name the first type that is not supported, and what it is to the model."""
    if type(model) not in _MODELS:
        return "is a", type(model).__name__
    if type(model.patch_embed) is not PatchEmbed:
        return "takes its tokens from a", type(model.patch_embed).__name__
    for block in model.blocks:
        attention = getattr(block, "attn", None)
        if type(block) not in _BLOCKS:
            return "is built of", type(block).__name__
        if (type(model), type(block), type(attention)) not in _ADAPTERS:
            return "attends by", type(attention).__name__
    return None
