"""Every supported architecture against timm's own forward pass, in torch.

Without prompts the two must agree as they are. With prompts, timm's own blocks run over the longer
sequence `[prompts, tokens]`: hooks put the prompts in front of the first block and take them out
behind the last, and a mask lets each prompt see itself alone where `prefix` says so.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from timm.models import Beit, VisionTransformerRelPos
from torch.nn import functional

from pfm_edge.model import PromptedViT
from tests.support.architectures import ARCHITECTURES

CLASSES = 3
EVERY = pytest.mark.parametrize("case", ARCHITECTURES, ids=str)
BOTH = pytest.mark.parametrize("attention", ["joint", "prefix"])


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def embedding(backbone, images):
    return backbone.forward_head(backbone.forward_features(images), pre_logits=True)


def allowed(attention, count):
    """Which token may see which, for `count` tokens of which the first are prompts."""
    mask = torch.ones(count, count, dtype=torch.bool)
    if attention == "prefix":
        mask[:CLASSES] = False
        mask[:CLASSES, :CLASSES] = torch.eye(CLASSES, dtype=torch.bool)
    return mask


def biases_of(backbone):
    """What timm's blocks call a bias given from outside, and what each adds by itself.

    Given from outside, a bias can be as long as the sequence.
    """
    if isinstance(backbone, Beit):
        shared = backbone.rel_pos_bias() if backbone.rel_pos_bias is not None else 0.0
        own = {block: block.attn._get_rel_pos_bias() + shared for block in backbone.blocks}
        return "shared_rel_pos_bias", own
    if isinstance(backbone, VisionTransformerRelPos):
        shared = backbone.shared_rel_pos
        sources = {block: block.attn.rel_pos or shared for block in backbone.blocks}
        return "shared_rel_pos", {block: each.get_bias() for block, each in sources.items()}
    return None


@contextmanager
def without_own_biases(backbone) -> Iterator[None]:
    """Let no block add a bias of its own."""
    kept = []
    for block in backbone.blocks:
        for name in ("relative_position_bias_table", "rel_pos"):
            if getattr(block.attn, name, None) is not None:
                kept.append((block.attn, name, getattr(block.attn, name)))
                setattr(block.attn, name, None)
    try:
        yield
    finally:
        for attention, name, value in kept:
            setattr(attention, name, value)


@contextmanager
def prompts_in_front(backbone, prompts, attention) -> Iterator[None]:
    """Let timm's blocks run over prompts and image tokens.

    Prompts do not turn, and nothing is added to the scores where a prompt is met.
    """
    biases = biases_of(backbone)

    def enter(block, args, kwargs):
        x = args[0]
        if block is backbone.blocks[0]:
            x = torch.cat((prompts.expand(x.shape[0], -1, -1), x), dim=1)
        mask = allowed(attention, x.shape[1])
        if biases:
            name, by_block = biases
            around = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
            bias = functional.pad(by_block[block], (CLASSES, 0, CLASSES, 0))
            return (x, *args[1:]), {name: bias + around}
        return (x, *args[1:]), kwargs | {"attn_mask": mask}

    def leave(block, args, out):
        return out[:, CLASSES:]

    handles = [
        block.register_forward_pre_hook(enter, with_kwargs=True) for block in backbone.blocks
    ]
    turning = [block.attn for block in backbone.blocks if hasattr(block.attn, "num_prefix_tokens")]
    handles.append(backbone.blocks[-1].register_forward_hook(leave))
    for each in turning:
        each.num_prefix_tokens += CLASSES
    try:
        with without_own_biases(backbone):
            yield
    finally:
        for each in turning:
            each.num_prefix_tokens -= CLASSES
        for handle in handles:
            handle.remove()


@BOTH
@EVERY
def test_without_prompts_it_is_timm(case, images, attention):
    model = PromptedViT(case.backbone(), attention, CLASSES).eval()
    tensors = model.select(model.encode(), torch.empty(0, dtype=torch.int64))
    with torch.no_grad():
        for fused in (True, False):
            actual = model.embed(images, tensors, fused=fused)
            torch.testing.assert_close(
                actual, embedding(model.backbone, images), atol=1e-5, rtol=1e-5
            )


@BOTH
@EVERY
def test_with_prompts_it_is_timm_over_the_longer_sequence(case, images, attention):
    model = PromptedViT(case.backbone(), attention, CLASSES).eval()
    with torch.no_grad():
        tensors = model.select(model.encode(), model.full_bank())
        with prompts_in_front(model.backbone, model.prompts, attention):
            expected = embedding(model.backbone, images)
        assert (expected - embedding(model.backbone, images)).abs().max() > 1e-2
        for fused in (True, False):
            actual = model.embed(images, tensors, fused=fused)
            torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)
