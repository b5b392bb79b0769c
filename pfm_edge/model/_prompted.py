"""The pre-forgettable model: a backbone, one prompt per class, one head row per class."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pfm_edge.model._attention import AttentionKind, class_attention
from pfm_edge.model._blocks import Backbone
from pfm_edge.model._families import adapter_of
from pfm_edge.model._prompts import draw_prompts
from pfm_edge_runtime.manifest import ClassInput

__all__ = ["PromptedViT"]


class PromptedViT(nn.Module):
    """A vision transformer whose classes are each bound to a prompt.

    A *bank* says which classes' prompts are present: int64 [m] for all images alike, or [B, m]
    for each image its own. The order of a bank changes nothing. Logits always name all C classes;
    a deployed model has the head rows of the classes in its bundle alone.

    Source: Hendrix et al., "Pre-Forgettable Models", arXiv 2509.15230. Unlike the authors' code,
    the final LayerNorm of the timm model is applied, and the head reads the backbone's own pooled
    output (class token, average or attention pooling), never a prompt's.
    """

    def __init__(self, backbone: Backbone, attention: AttentionKind, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.attention = class_attention(attention)
        self.prompts = nn.Parameter(draw_prompts(num_classes, backbone.embed_dim))
        self.head = nn.Linear(backbone.num_features, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def num_classes(self) -> int:
        """The number of classes C that the model was made for."""
        return int(self.prompts.shape[0])

    @property
    def prompt_inputs(self) -> tuple[ClassInput, ...]:
        """The class inputs that come from prompts (the head's rows are not among them)."""
        return self.attention.class_inputs(self.backbone)

    def forward(self, images: Tensor, banks: Tensor) -> Tensor:
        """Classify images with the prompts of the given banks.

        Args:
            images: float [B, channels, height, width], preprocessed.
            banks: int64 [m] or [B, m], class indices; m may be 0.

        Returns:
            float [B, C] logits over all classes.
        """
        logits: Tensor = self.head(self.embed(images, self.select(self.encode(), banks)))
        return logits

    def encode(self) -> dict[str, Tensor]:
        """Class tensors of all C prompts; compute once, then `select` banks from them."""
        return self.attention.encode(self.backbone, self.prompts)

    def select(self, tensors: Mapping[str, Tensor], banks: Tensor) -> dict[str, Tensor]:
        """Pick the slices of banks [m] or [B, m]; returns tensors with a leading batch axis."""
        axes = {spec.name: spec.class_axis for spec in self.prompt_inputs}
        rows = banks if banks.ndim == 2 else banks[None]  # noqa: PLR2004 ([B, m])
        selected = {}
        for name, tensor in tensors.items():
            axis = axes[name]
            shape = (*tensor.shape[:axis], *rows.shape, *tensor.shape[axis + 1 :])
            picked = tensor.index_select(axis, rows.flatten()).reshape(shape)
            selected[name] = picked.movedim(axis, 0)
        return selected

    def embed(self, images: Tensor, tensors: Mapping[str, Tensor], *, fused: bool = True) -> Tensor:
        """Run the backbone.

        Args:
            images: float [B, channels, height, width].
            tensors: selected class tensors, with a leading axis of B or 1.
            fused: use PyTorch's fused attention; False writes it out, for export.

        Returns:
            float [B, D]: timm's `forward_head(tokens without prompts, pre_logits=True)`.
        """
        backbone = self.backbone
        embedded = adapter_of(backbone).embed(backbone, images)
        tokens = self.attention.run_blocks(backbone, embedded, tensors, fused)
        embedding: Tensor = backbone.forward_head(backbone.norm(tokens), pre_logits=True)
        return embedding

    def full_bank(self) -> Tensor:
        """The bank of all classes, int64 [C], on the model's device."""
        return torch.arange(self.num_classes, device=self.prompts.device)
