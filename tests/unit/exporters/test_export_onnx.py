"""From torch to ONNX: what comes out, and that what cannot come out is one clear line."""

import logging
import pkgutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import pfm_edge_exporters
from pfm_edge_exporters import (
    ExportError,
    OnnxFromTorch,
    ParityError,
    check_parity,
    parity_classes,
    torch_reference,
)
from pfm_edge_exporters._quiet import quiet_torch
from pfm_edge_exporters.onnx_from_torch import _reason
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.manifest import ClassInput
from tests.support.tiny_torch import (
    HEAD_INPUTS,
    WIDTH,
    Backbone,
    Joint,
    bare_source,
    joint_graph,
    joint_source,
    prefix_graph,
    prefix_source,
    source_of,
)

CASES = [(prefix_source, prefix_graph), (joint_source, joint_graph)]


def run_onnx(graph):
    return load_backend("onnxruntime")(graph, threads=1)


def shape(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(("source", "graph"), CASES)
def test_the_graph_computes_the_model_at_every_point(source, graph):
    source = source()
    report = check_parity(
        torch_reference(source), run_onnx(graph()), source, classes=parity_classes(100)
    )
    assert len(report.rows) == 12
    assert report.worst < 1e-5
    assert report.sensitivity > 1e-2


@pytest.mark.parametrize(("source", "graph"), CASES)
def test_inputs_and_outputs_are_the_declared_ones(source, graph):
    source, model = source(), onnx.load_model_from_string(graph())
    assert {each.name: shape(each) for each in model.graph.input} == {
        "image": ["batch", 1, 8, 8],
        **{each.name: list(each.graph_shape("classes")) for each in source.class_inputs},
    }
    assert {each.name: shape(each) for each in model.graph.output} == {
        "logits": ["batch", "classes"],
        "embedding": ["batch", WIDTH],
    }


@pytest.mark.parametrize("graph", [prefix_graph, joint_graph])
def test_the_file_is_plain_opset_18(graph):
    model = onnx.load_model_from_string(graph())
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    assert model.ir_version <= 10
    assert {each.domain for each in model.graph.node} == {""}
    assert not model.functions
    assert "Resize" not in {each.op_type for each in model.graph.node}


def test_nodes_and_weights_are_named_after_the_modules():
    model = onnx.load_model_from_string(prefix_graph())
    names = {each.name for each in model.graph.node}
    assert {
        "blocks.1.norm2/LayerNormalization",
        "blocks.0.qkv/MatMul",
        "norm/LayerNormalization",
    } <= names
    weights = {each.name for each in model.graph.initializer}
    assert {"pos_embed", "patch_embed.weight", "blocks.1.qkv.bias"} <= weights


def test_the_attention_is_not_rewritten_around_softmax():
    """What a half-precision export relies on: MatMul, Softmax, MatMul, and nothing between."""
    model = onnx.load_model_from_string(prefix_graph())
    by_output = {name: each for each in model.graph.node for name in each.output}
    for softmax in (each for each in model.graph.node if each.op_type == "Softmax"):
        assert by_output[softmax.input[0]].op_type == "MatMul"
        users = [each.op_type for each in model.graph.node if softmax.output[0] in each.input]
        assert users == ["MatMul"]


def test_a_bare_backbone_has_no_class_axis():
    source = bare_source()
    graph = OnnxFromTorch().export(source)
    model = onnx.load_model_from_string(graph)
    assert [each.name for each in model.graph.input] == ["image"]
    assert [shape(each) for each in model.graph.output] == [["batch", 1], ["batch", WIDTH]]
    assert check_parity(torch_reference(source), run_onnx(graph), source).worst < 1e-5


def test_the_module_is_left_as_it_was():
    source = prefix_source()
    before = {name: tensor.clone() for name, tensor in source.module.state_dict().items()}
    image = torch.ones(1, 1, 8, 8)
    tensors = [torch.tensor(t) for t in source.synthesize(2, np.random.default_rng(0)).values()]
    with torch.no_grad():
        outputs = source.module(image, *tensors)
        OnnxFromTorch().export(source)
        again = source.module(image, *tensors)
    assert all(torch.equal(one, other) for one, other in zip(outputs, again, strict=True))
    after = source.module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not source.module.training
    assert all(each.requires_grad for each in source.module.parameters())


def test_nothing_is_printed_or_logged(capfd, caplog):
    with caplog.at_level(logging.WARNING):
        OnnxFromTorch().export(joint_source())
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


class Small(nn.Module):
    """A linear backbone, to be spoilt in one place each."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, WIDTH)
        self.five = nn.Parameter(torch.arange(5.0))
        self.eval()

    def forward(self, image, weight, bias):
        embedding = self.linear(image.flatten(1))
        return self.spoil(image, embedding @ weight.t() + bias, embedding)


SPOILT = {
    "a baked number of classes": (
        lambda self, image, logits, embedding: (logits + self.five, embedding),
        "fixes the classes axis to 5",
    ),
    "a baked batch": (
        lambda self, image, logits, embedding: (logits.reshape(3, -1), embedding),
        "fixes the batch axis to 3",
    ),
    "len() of a tensor": (
        lambda self, image, logits, embedding: (logits * float(len(logits)), embedding),
        "not with len(x)",
    ),
    "a branch on the number of classes": (
        lambda self, image, logits, embedding: (
            logits * 2 if logits.shape[1] > 3 else logits,
            embedding,
        ),
        "branches on the size of the classes axis",
    ),
    "a branch on a value": (
        lambda self, image, logits, embedding: (
            logits * 2 if embedding.sum() > 0 else logits,
            embedding,
        ),
        "branches on the values of a tensor",
    ),
    "NumPy inside": (
        lambda self, image, logits, embedding: (
            logits,
            torch.from_numpy(embedding.detach().numpy() * 2),
        ),
        "RuntimeError: .numpy() is not supported",
    ),
    "three outputs": (
        lambda self, image, logits, embedding: (logits, embedding, image),
        "must return two tensors",
    ),
    "outputs by name": (
        lambda self, image, logits, embedding: {"scores": logits, "embedding": embedding},
        "must return two tensors",
    ),
    "double logits": (
        lambda self, image, logits, embedding: (logits.double(), embedding),
        "gives logits as torch.float64",
    ),
    "half an embedding": (
        lambda self, image, logits, embedding: (logits, embedding.half()),
        "gives embedding as torch.float16",
    ),
    "one logit too many": (
        lambda self, image, logits, embedding: (logits.repeat(1, 2), embedding),
        "gives 10 logits for 5 classes",
    ),
    "tokens for an embedding": (
        lambda self, image, logits, embedding: (logits, embedding[:, None]),
        "gives embedding as [3, 1, 16] for 3 images",
    ),
    "double arithmetic inside": (
        lambda self, image, logits, embedding: (logits, embedding.double().exp().float()),
        "converts to float64",
    ),
    "resizing": (
        lambda self, image, logits, embedding: (
            logits,
            nn.functional.interpolate(image, size=(4, 4), mode="bilinear").flatten(1) + embedding,
        ),
        "resizes at run time",
    ),
    "noise": (
        lambda self, image, logits, embedding: (logits, embedding + torch.rand_like(embedding)),
        "draws random numbers",
    ),
    "an operator that ONNX lacks": (
        lambda self, image, logits, embedding: (logits, torch.special.i0e(embedding)),
        "has no ONNX form",
    ),
    "a fault of its own": (
        lambda self, image, logits, embedding: {}["missing"],
        "KeyError: 'missing'",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_cannot_be_exported_is_one_line(case, capfd):
    spoil, words = SPOILT[case]
    module = type("Spoilt", (Small,), {"spoil": spoil})()
    with pytest.raises(ExportError) as caught:
        OnnxFromTorch().export(source_of(module, HEAD_INPUTS))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            "Constraints violated (classes)! For more information, run with TORCH_LOGS.\n"
            "  - You marked classes as dynamic but your code specialized it to be a constant (5).",
            "it fixes the classes axis to 5",
        ),
        (
            "Constraints violated (batch)!\n  - Not all values of batch = L['image'].size()[0] in "
            "the specified range are valid because batch was inferred to be a constant (3).",
            "it fixes the batch axis to 3",
        ),
        (
            "\x1b[31mNo ONNX function found for aten.i0e\x1b[0m\nlong advice",
            "RuntimeError: No ONNX function found for aten.i0e",
        ),
        ("", "RuntimeError: no reason given"),
    ],
)
def test_the_gist_of_what_torch_says(said, meant):
    assert _reason(RuntimeError(said)).startswith(meant)


def test_a_class_input_that_the_module_ignores_is_refused():
    class Forgetful(Small):
        def forward(self, image, weight, bias):
            return super().forward(image, weight, torch.zeros(weight.shape[0]))

        def spoil(self, image, logits, embedding):
            return logits, embedding

    with pytest.raises(ExportError, match="class_bias reaches no output"):
        OnnxFromTorch().export(source_of(Forgetful(), HEAD_INPUTS))


def test_other_remarks_of_torch_and_others_are_kept(capfd, caplog):
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    with quiet_torch():
        for text in ("progress\n", "\n\ndef forward(self, arg0_1): ...", "\n", "more\n"):
            sys.stderr.write(text)
        logger.warning("Unable to find user code corresponding to {u0}")
        logger.warning("something new")
    sys.stderr.write("def forward(self, arg0_1): ...")
    shown = [line for line in capfd.readouterr().err.splitlines() if "something new" not in line]
    assert shown == ["progress", "more", "def forward(self, arg0_1): ..."]
    assert [record.getMessage() for record in caplog.records] == ["something new"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda module: module.train(), "call eval()"),
        (lambda module: module.norm.train(), "call eval()"),
        (lambda module: module.double(), "is torch.float64: call float()"),
        (lambda module: module.blocks[0].half(), "blocks.0.norm1.weight is torch.float16"),
        (lambda module: module.to("meta"), "is on meta: move the module to the CPU"),
    ],
)
def test_a_module_in_another_state_is_refused_at_once(change, words):
    module = Joint()
    source = source_of(module, joint_source().class_inputs)
    change(module)
    with pytest.raises(ExportError, match=r"^[^\n]+$") as caught:
        OnnxFromTorch().export(source)
    assert words in str(caught.value)


def test_an_input_named_as_an_output_is_refused():
    source = source_of(Joint(), (ClassInput("logits", (WIDTH,), 0), *HEAD_INPUTS))
    with pytest.raises(ExportError, match="share a name"):
        OnnxFromTorch().export(source)


def test_weights_beyond_one_file_are_refused_before_the_work(monkeypatch):
    monkeypatch.setattr("pfm_edge_exporters.onnx_from_torch.MAX_GRAPH_BYTES", 1000)
    with pytest.raises(ExportError, match="one ONNX file holds 2 GiB"):
        OnnxFromTorch().export(joint_source())


def test_a_missing_onnxscript_names_the_command(monkeypatch):
    monkeypatch.setattr("pfm_edge_exporters.onnx_from_torch.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install 'pfm-edge-exporters\[torch\]'"):
        OnnxFromTorch().export(joint_source())


def test_other_weights_are_no_parity():
    source = source_of(Joint(seed=8), joint_source().class_inputs, "joint")
    with pytest.raises(ParityError, match="does not agree with the model it came from"):
        check_parity(torch_reference(source), run_onnx(joint_graph()), source)


def test_a_module_that_fails_as_the_reference_is_one_line():
    source = source_of(Backbone(), HEAD_INPUTS)  # takes no class inputs
    with pytest.raises(ExportError, match=r"the model fails for inputs \[\[1, 1, 8, 8\]") as caught:
        check_parity(torch_reference(source), run_onnx(joint_graph()), source)
    assert "\n" not in str(caught.value)


def test_the_public_names_are_the_visible_ones():
    submodules = {
        each.name
        for each in pkgutil.iter_modules(pfm_edge_exporters.__path__)
        if not each.name.startswith("_")
    }
    visible = {name for name in vars(pfm_edge_exporters) if not name.startswith("_")}
    assert visible - submodules == set(pfm_edge_exporters.__all__)


def test_importing_the_exporters_imports_no_torch():
    heavy = "{'torch', 'onnxscript', 'onnxruntime'}"
    code = f"import sys, pfm_edge_exporters; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
