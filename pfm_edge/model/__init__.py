"""Pre-forgettable vision transformers: a timm backbone, one prompt per class, a head.

`create_backbone` makes the timm model, `PromptedViT` adds the class prompts and the head and runs
either attention variant (`joint`, `prefix`) over whatever family of blocks the model is built of,
`add_lora` and `merge_lora` adapt a frozen backbone, `set_image_size` fits it to other images.

    model = PromptedViT(create_backbone(config.backbone), "prefix", num_classes=10)
    logits = model(images, banks=torch.arange(10))       # the full bank
"""

from pfm_edge.model._attention import AttentionKind, ClassAttention, class_attention
from pfm_edge.model._backbone import create_backbone, image_input, preprocessing
from pfm_edge.model._blocks import Backbone
from pfm_edge.model._families import NAMES, WHY_NOT
from pfm_edge.model._image_size import set_image_size
from pfm_edge.model._lora import LoraLinear, LoraQkv, add_lora, merge_lora
from pfm_edge.model._memory import require_static_memory
from pfm_edge.model._prompted import PromptedViT
from pfm_edge.model._prompts import draw_prompts

__all__ = [
    "NAMES",
    "WHY_NOT",
    "AttentionKind",
    "Backbone",
    "ClassAttention",
    "LoraLinear",
    "LoraQkv",
    "PromptedViT",
    "add_lora",
    "class_attention",
    "create_backbone",
    "draw_prompts",
    "image_input",
    "merge_lora",
    "preprocessing",
    "require_static_memory",
    "set_image_size",
]
