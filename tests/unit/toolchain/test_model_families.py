"""What the toolchain does with each family of backbones: LoRA, other sizes, refusals by name."""

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file

from pfm_edge.config import BackboneConfig
from pfm_edge.model import (
    LoraLinear,
    LoraQkv,
    PromptedViT,
    add_lora,
    create_backbone,
    image_input,
    merge_lora,
    set_image_size,
)
from pfm_edge.publishing import deployable_source
from pfm_edge.weights import load_into
from pfm_edge_runtime.errors import ConfigError
from tests.support.architectures import ARCHITECTURES

BY_NAME = {case.name: case for case in ARCHITECTURES}
TINY = {"embed_dim": 32, "num_heads": 2, "depth": 1, "img_size": 32, "patch_size": 16}


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "projection", "adapted"),
    [
        ("DINOv2", "qkv", LoraQkv),
        ("EVA-02", "qkv", LoraQkv),  # its biases are apart from the projection
        ("EVA-02, base", "q_proj", LoraLinear),
        ("Sapiens 2", "v_proj", LoraLinear),  # narrower than the queries
    ],
)
def test_lora_starts_as_the_backbone_and_merges_to_itself(name, projection, adapted, images):
    model = PromptedViT(BY_NAME[name].backbone(), "prefix", 3).eval()
    names = set(model.state_dict())
    with torch.no_grad():
        before = model(images, model.full_bank())
        add_lora(model.backbone, rank=3, alpha=6.0, dropout=0.5)
        assert isinstance(getattr(model.backbone.blocks[0].attn, projection), adapted)
        assert not model.training
        torch.testing.assert_close(model(images, model.full_bank()), before)

        trained = {n: p for n, p in model.backbone.named_parameters() if p.requires_grad}
        assert {n.rsplit(".", 1)[-1] for n in trained} <= {
            "query_a", "query_b", "value_a", "value_b", "a", "b",
        }  # fmt: skip
        assert not any("k_proj" in n for n in trained)
        for parameter in trained.values():
            parameter.normal_(std=0.2)
        after = model(images, model.full_bank())
        assert (after - before).abs().max() > 1e-2
        merged = copy.deepcopy(model)
        merge_lora(merged.backbone)
        assert set(merged.state_dict()) == names
        torch.testing.assert_close(merged(images, model.full_bank()), after, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["DINOv2", "EVA-02", "RoPE-ViT, mixed", "BEiT", "ViT, relative"])
@pytest.mark.parametrize("size", [(48, 48), (16, 40)], ids=["larger", "not square"])
def test_another_image_size_is_as_if_made_for_it(name, size, tmp_path):
    """Two ways there: timm resizes a model; or weights of one size are loaded into another."""
    case = BY_NAME[name]
    backbone = case.backbone()
    save_file(backbone.state_dict(), tmp_path / "weights.safetensors")
    larger = {**case.config.arguments, "img_size": list(size)}
    made = create_backbone(case.config.model_copy(update={"arguments": larger}))
    load_into(made, tmp_path / "weights.safetensors")

    set_image_size(backbone, size)
    assert image_input(backbone).shape == (3, *size)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), made(images), atol=1e-5, rtol=1e-5)


def test_both_classifiers_of_a_distilled_model_are_passed_over(tmp_path):
    case = BY_NAME["DeiT, distilled"]
    whole = timm.create_model(case.model, num_classes=3, **case.config.arguments)
    assert {"head.weight", "head_dist.weight"} <= set(whole.state_dict())
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    backbone = case.backbone()
    load_into(backbone, tmp_path / "weights.safetensors")
    assert torch.equal(backbone.dist_token, whole.dist_token)


def test_an_image_size_of_broken_patches_is_refused():
    backbone = BY_NAME["ViT"].backbone()
    with pytest.raises(ConfigError, match=r"50 x 48: not whole patches of 8 x 8.* is 48 x 48"):
        set_image_size(backbone, (50, 48))
    with pytest.raises(ConfigError, match="the nearest is 8 x 48"):
        set_image_size(backbone, (0, 48))
    assert image_input(backbone).shape == (3, 32, 32)


def test_an_image_size_beyond_memory_is_refused_at_once():
    backbone = BY_NAME["ViT"].backbone()
    with pytest.raises(
        ConfigError, match=r"^image size 800000 x 800000: 10,000,000,000 patches"
    ) as e:
        set_image_size(backbone, (800_000, 800_000))
    assert str(e.value).endswith("; choose a smaller size")
    assert image_input(backbone).shape == (3, 32, 32)


def test_a_source_for_another_size_is_another_model_with_the_same_classes():
    case = BY_NAME["ViT"]
    model = PromptedViT(case.backbone(), "prefix", 3)
    made_for, larger = (deployable_source(model, case.config, s) for s in (None, (48, 64)))
    assert larger.image.shape == (3, 48, 64)
    assert larger.class_inputs == made_for.class_inputs
    assert larger.preprocessing.resize > made_for.preprocessing.resize
    assert larger.model_id != made_for.model_id
    assert deployable_source(model, case.config, (32, 32)).model_id == made_for.model_id
    assert image_input(model.backbone).shape == (3, 32, 32)  # the run's model is as it was


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("swin_tiny_patch4_window7_224", {}, "is a SwinTransformer: it attends within windows"),
        ("swinv2_tiny_window8_256", {}, "is a SwinTransformerV2: it attends within windows"),
        ("samvit_base_patch16", {}, "is a VisionTransformerSAM: it attends within windows"),
        ("cait_xxs24_224", {}, "is a Cait: its heads mix their scores"),
        ("xcit_nano_12_p16_224", {}, "is a Xcit: it attends over channels"),
        ("convit_tiny", {}, "is a ConVit: its gates"),
        ("crossvit_tiny_240", {}, "is a CrossVit: it has two branches"),
        ("tnt_s_patch16_224", {}, "is a TNT: it attends within patches"),
        ("pit_ti_224", {}, "is a PoolingVisionTransformer: it merges its tokens"),
        ("hiera_tiny_224", {}, "is a Hiera: it merges its tokens"),
        ("mvitv2_tiny", {}, "is a MultiScaleVit: it merges its tokens"),
        ("naflexvit_base_patch16_gap", {}, "is a NaFlexVit: it takes images of any size"),
        ("resnet18", {}, "is a ResNet: it is no transformer of tokens"),
        ("resnet18", TINY, "is a ResNet: it is no transformer of tokens"),  # it takes none of them
        ("convnext_atto", TINY, "is a ConvNeXt: it is no transformer of tokens"),
        ("levit_128", {}, "is a LevitDistilled: its blocks are none that pfm-edge can give"),
        ("efficientvit_b0", {}, "is a EfficientVit: its blocks are none that pfm-edge can give"),
        ("cait_xxs24_224", {"no": 1}, "is a Cait: its heads mix their scores"),
        ("vit_tiny_r_s16_p8_224", {}, "takes its tokens from a HybridEmbed: a convolutional"),
        ("vit_small_patch16_18x2_224", TINY, "built of ParallelThingsBlock: it attends twice"),
        ("vit_base_patch16_xp_224", TINY, "built of ParallelScalingBlock: attention and MLP share"),
        ("vit_dpwee_patch16_reg1_gap_256", TINY, "built of DiffParallelScalingBlock: attention"),
        ("vit_dwee_patch16_reg1_gap_256", TINY, "attends by DiffAttention: it subtracts two"),
        ("deepseek_vit_412m_enc", {"depth": 1}, "is a DeepseekVitEncoder: it takes images of any"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(model, arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        create_backbone(BackboneConfig(model=model, arguments=arguments))
    assert f"'{model}'" in str(caught.value)
    assert "choose a plain vision transformer of timm (vit_*" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_name_is_met_with_the_nearest_of_any_family():
    for wrong, right in {
        "eva02_tiny_patch14_24": "eva02_tiny_patch14_224",
        "vit_small_patch16_dinv3": "vit_small_patch16_dinov3",
    }.items():
        with pytest.raises(ConfigError, match=f"did you mean '{right}'"):
            create_backbone(BackboneConfig(model=wrong))
