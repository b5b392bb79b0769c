"""One architecture of each block adapter, twelve layers deep and as wide as a ViT-S."""

import pytest

from pfm_edge.config import BackboneConfig
from pfm_edge.model import PromptedViT, create_backbone
from pfm_edge.publishing import deployable_source
from tests.support.architectures import randomise
from tests.support.exported import Exported, build_engine, export, parity


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "attention", "arguments"),
    [
        ("deit3_small_patch16_224", "joint", {}),
        ("vit_small_patch16_dinov3", "prefix", {}),
        ("beit_base_patch16_224", "joint", {"embed_dim": 384, "num_heads": 6}),
    ],
)
def test_at_full_depth_the_graph_computes_what_torch_does(model, attention, arguments):
    config = BackboneConfig(model=model, arguments={"img_size": 64, **arguments})
    backbone = randomise(create_backbone(config))
    assert (len(backbone.blocks), backbone.embed_dim) == (12, 384)
    source = deployable_source(PromptedViT(backbone, attention, 2), config)
    deep = Exported(model, source, export(source))
    report = parity(deep)
    assert report.worst <= 1e-4
    assert report.sensitivity > 1e-2
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu12 is not installed")
    assert build_engine(deep).layers > 1000
