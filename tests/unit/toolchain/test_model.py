"""The prompted ViT against independent ways to compute the same thing."""

import copy

import pytest
import torch
from torch.nn import functional

from pfm_edge.config import BackboneConfig
from pfm_edge.model import add_lora, create_backbone, draw_prompts, image_input, merge_lora
from pfm_edge_runtime.errors import ConfigError

BOTH = pytest.mark.parametrize("attention", ["joint", "prefix"])


@pytest.fixture
def images():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@BOTH
def test_without_prompts_it_is_the_timm_model(make_model, images, attention):
    model = make_model(attention)
    tensors = model.select(model.encode(), torch.empty(0, dtype=torch.int64))
    expected = model.backbone.forward_head(model.backbone.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model.embed(images, tensors), expected, atol=2e-6, rtol=1e-5)


@BOTH
def test_the_order_of_a_bank_changes_nothing(make_model, images, attention):
    model = make_model(attention)
    torch.testing.assert_close(
        model(images, torch.tensor([0, 1, 2, 3, 4])), model(images, torch.tensor([3, 0, 4, 2, 1]))
    )


@BOTH
def test_a_bank_per_image_equals_that_bank_for_all(make_model, images, attention):
    model = make_model(attention)
    banks = torch.tensor([[0, 1], [1, 4], [2, 3], [4, 0]])
    together = model(images, banks)
    for row, bank in enumerate(banks):
        torch.testing.assert_close(together[row], model(images, bank)[row], atol=2e-6, rtol=1e-5)


@BOTH
def test_explicit_attention_equals_fused(make_model, images, attention):
    model = make_model(attention)
    tensors = model.select(model.encode(), model.full_bank())
    torch.testing.assert_close(
        model.embed(images, tensors, fused=False),
        model.embed(images, tensors),
        atol=2e-6,
        rtol=1e-5,
    )


@BOTH
def test_a_prompt_matters(make_model, images, attention):
    model = make_model(attention)
    tensors = model.encode()
    with_all = model.embed(images, model.select(tensors, model.full_bank()))
    without = model.embed(images, model.select(tensors, torch.tensor([0, 1, 2, 3])))
    assert (with_all - without).abs().max() > 1e-2


def test_joint_is_timm_over_the_longer_sequence(make_model, images):
    model = make_model("joint")
    backbone = model.backbone
    tokens = backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(images)))
    x = torch.cat((model.prompts.expand(4, -1, -1), tokens), dim=1)
    expected = backbone.forward_head(backbone.norm(backbone.blocks(x))[:, 5:], pre_logits=True)
    actual = model.embed(images, model.select(model.encode(), model.full_bank()))
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=1e-5)


def test_prefix_is_the_masked_full_sequence(make_model, images):
    """Prompts in the sequence, each seeing itself alone; image tokens see everything."""
    model = make_model("prefix")
    backbone = model.backbone
    tokens = backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(images)))
    x = torch.cat((model.prompts.expand(4, -1, -1), tokens), dim=1)
    allowed = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
    allowed[5:] = True
    allowed[:5, :5] = torch.eye(5, dtype=torch.bool)
    for block in backbone.blocks:
        x = block(x, attn_mask=allowed)
    expected = backbone.forward_head(backbone.norm(x)[:, 5:], pre_logits=True)
    actual = model.embed(images, model.select(model.encode(), model.full_bank()))
    torch.testing.assert_close(actual, expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [{"global_pool": "avg"}, {"reg_tokens": 4}, {"no_embed_class": True}, {"pre_norm": True}],
    ids=lambda value: next(iter(value)),
)
@BOTH
def test_poolings_and_prefix_tokens(make_model, images, attention, arguments):
    model = make_model(attention, **arguments)
    tensors = model.select(model.encode(), torch.empty(0, dtype=torch.int64))
    expected = model.backbone.forward_head(model.backbone.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model.embed(images, tensors), expected, atol=2e-6, rtol=1e-5)


def test_lora_starts_as_the_backbone_and_merges_to_itself(make_model, images):
    model = make_model("prefix")
    before = model(images, model.full_bank())
    add_lora(model.backbone, rank=3, alpha=6.0, dropout=0.5)
    torch.testing.assert_close(model.eval()(images, model.full_bank()), before)

    with torch.no_grad():
        for block in model.backbone.blocks:
            block.attn.qkv.query_b.normal_(std=0.1)
            block.attn.qkv.value_b.normal_(std=0.1)
    adapted = model(images, model.full_bank())
    assert (adapted - before).abs().max() > 1e-2
    merged = copy.deepcopy(model)
    merge_lora(merged.backbone)
    assert not any("query_a" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(merged(images, model.full_bank()), adapted, atol=2e-6, rtol=1e-5)


def test_lora_leaves_keys_alone_and_trains_nothing_else(make_model):
    model = make_model("joint")
    add_lora(model.backbone, rank=2, alpha=2.0, dropout=0.0)
    qkv = model.backbone.blocks[0].attn.qkv
    torch.nn.init.normal_(qkv.query_b)
    x = torch.randn(1, 3, 32)
    adapted, plain = qkv(x).chunk(3, -1), qkv.base(x).chunk(3, -1)
    assert torch.equal(adapted[1], plain[1])
    assert not torch.equal(adapted[0], plain[0])
    trained = {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"query_a", "query_b", "value_a", "value_b", "prompts", "weight", "bias"}
    assert not qkv.base.weight.requires_grad


def test_lora_dropout_acts_on_activations_in_training_only(make_model):
    model = make_model("joint")
    add_lora(model.backbone, rank=2, alpha=2.0, dropout=0.5)
    qkv = model.backbone.blocks[0].attn.qkv
    torch.nn.init.normal_(qkv.query_b)
    x = torch.ones(1, 1, 32)
    assert torch.equal(qkv(x), qkv(x))
    qkv.train()
    assert not torch.equal(qkv(x), qkv(x))


def test_prompts_do_not_come_from_the_seed():
    torch.manual_seed(7)
    first = draw_prompts(64, 96)
    torch.manual_seed(7)
    second = draw_prompts(64, 96)
    assert not torch.equal(first, second)
    assert abs(float(first.mean())) < 0.05
    assert abs(float(first.std()) - 1.0) < 0.05
    assert abs(float(functional.cosine_similarity(first.flatten(), second.flatten(), 0))) < 0.1


def test_image_input_and_grey_preprocessing(make_model):
    assert image_input(make_model("joint").backbone).shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "vit_smal_patch16_224"}, "did you mean 'vit_small_patch16_224'"),
        ({"model": "resnet18"}, "no place for a prompt; choose a plain vision transformer"),
        ({"model": "swin_tiny_patch4_window7_224"}, "is a SwinTransformer: it attends within"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"no_such": 1}}, "timm cannot make"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"embed_dim": 50}}, "timm cannot make"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"num_classes": 3}}, "remove it"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"checkpoint_path": "x"}}, "remove it"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"num_heads": 0}}, "timm cannot make"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"patch_size": 0}}, "timm cannot make"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"img_size": [8]}}, "timm cannot make"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"act_layer": "foo"}}, "timm cannot make"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"depth": 0}}, "0 blocks"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"global_pool": ""}}, "gives"),
        ({"model": "vit_tiny_patch16_224", "arguments": {"img_size": 8}}, "does not run"),
    ],
)
def test_backbones_that_are_refused(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        create_backbone(BackboneConfig(**config))
    assert "\n" not in str(caught.value)
