"""Runs, checkpoints and resume, on a ViT that trains in seconds."""

import json
import shutil

import pytest
import torch

from pfm_edge.config import load_config
from pfm_edge.data import load_data
from pfm_edge.errors import RunError
from pfm_edge.model import create_backbone, image_input, preprocessing
from pfm_edge.registry import MARK_SUFFIX
from pfm_edge.training import Run, load_model, read_metrics, train
from pfm_edge_runtime.errors import ConfigError, StorageError
from pfm_edge_runtime.preprocessing import Preprocessor

CONFIG = """
data: {name: digits}
backbone:
  model: vit_tiny_patch16_224
  arguments: {img_size: 8, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2, in_chans: 1}
adaptation: {kind: full}
training: {epochs: 1, batch_size: 64, learning_rate: 1.0e-3, warmup_epochs: 0.2, device: cpu}
"""
LORA = ("adaptation.kind=lora", "adaptation.rank=2", "adaptation.dropout=0.1")


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def configure(config_file):
    return lambda *overrides: load_config(config_file, overrides)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(CONFIG)
    config = load_config(path, ())
    backbone = create_backbone(config.backbone)
    spec = preprocessing(config.backbone, backbone)
    return load_data(config.data, Preprocessor(spec, image_input(backbone)))


@pytest.mark.parametrize("extra", [(), LORA], ids=["full", "lora"])
def test_resume_continues_to_the_same_bytes(tmp_path, configure, data, extra):
    def upto(steps):
        return configure(f"training.max_steps={steps}", *extra)

    first = Run.create(tmp_path / "a", upto(1), data.labels)
    train(first, data)
    shutil.copytree(first.path, tmp_path / "b")  # the same prompts: they cannot be drawn again

    train(Run.resume(tmp_path / "a", upto(9), data.labels), data)
    train(Run.resume(tmp_path / "b", upto(4), data.labels), data)
    train(Run.resume(tmp_path / "b", upto(9), data.labels), data)

    straight, resumed = (Run.open(tmp_path / name) for name in "ab")
    assert straight.checkpoint.read_bytes() == resumed.checkpoint.read_bytes()
    assert [r["step"] for r in read_metrics(resumed.metrics) if r["kind"] == "stop"] == [9]


def test_resume_selects_the_same_epoch(tmp_path, configure, data):
    per_epoch = -(-len(data.train) // 64)

    def upto(steps):
        return configure("training.epochs=3", "training.select=best", f"training.max_steps={steps}")

    first = Run.create(tmp_path / "a", upto(1), data.labels)
    train(first, data)
    shutil.copytree(first.path, tmp_path / "b")
    train(Run.resume(tmp_path / "a", upto(3 * per_epoch), data.labels), data)
    for steps in (2 * per_epoch + 5, 3 * per_epoch - 1, 3 * per_epoch):  # stops within an epoch
        train(Run.resume(tmp_path / "b", upto(steps), data.labels), data)
    straight, resumed = (Run.open(tmp_path / name) for name in "ab")
    assert straight.best.read_bytes() == resumed.best.read_bytes()
    epochs = [
        [{**r, "seconds": 0} for r in read_metrics(run.metrics) if r["kind"] in {"epoch", "stop"}]
        for run in (straight, resumed)
    ]
    assert epochs[0] == epochs[1]
    assert [r["epoch"] for r in epochs[0]] == [1, 2, 3]


def test_bfloat16_autocast_trains(tmp_path, configure, data):
    override = ("training.precision=bfloat16", "training.epochs=3", *LORA)
    run = Run.create(tmp_path / "run", configure(*override), data.labels)
    train(run, data)
    losses = [r["loss"] for r in read_metrics(run.metrics) if r["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert load_model(run).prompts.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_trains_and_loads_on_the_cpu(tmp_path, configure, data):
    run = Run.create(
        tmp_path / "run", configure("training.device=cuda", "training.epochs=2"), data.labels
    )
    train(run, data)
    assert load_model(run).prompts.device.type == "cpu"


def test_training_lowers_the_loss_and_logs_it(tmp_path, configure, data):
    run = Run.create(tmp_path / "run", configure("training.epochs=4"), data.labels)
    seen = []
    steps = train(run, data, progress=seen.append)
    losses = [r["loss"] for r in read_metrics(run.metrics) if r["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.1
    assert seen[-1].step == seen[-1].total_steps == steps
    epochs = [r for r in read_metrics(run.metrics) if r["kind"] == "epoch"]
    assert [r["epoch"] for r in epochs] == [1, 2, 3, 4]
    assert list((run.path / "tensorboard").iterdir())


def test_logs_name_classes_by_id_and_checkpoints_hold_no_label(tmp_path, configure, data):
    labels = tuple(f"person-{label}" for label in data.labels)
    run = Run.create(tmp_path / "run", configure("training.max_steps=1"), labels)
    train(run, data)
    for path in (run.metrics, run.checkpoint, *(run.path / "tensorboard").iterdir()):
        assert b"person-" not in path.read_bytes(), path
    record = next(r for r in read_metrics(run.metrics) if r["kind"] == "stop")
    assert set(record["forget_accuracy_by_class"]) == {c.class_id for c in run.classes}


def test_a_loaded_model_is_the_trained_one(tmp_path, configure, data):
    run = Run.create(tmp_path / "run", configure("training.max_steps=2", *LORA), data.labels)
    train(run, data)
    images = data.test.images(torch.arange(8))
    first, second = load_model(run), load_model(Run.open(run.path))
    assert torch.equal(first(images, first.full_bank()), second(images, second.full_bank()))
    assert not first.training


def test_class_ids_are_random_and_kept(tmp_path, configure, data):
    first = Run.create(tmp_path / "a", configure(), data.labels)
    second = Run.create(tmp_path / "b", configure(), data.labels)
    assert not {c.class_id for c in first.classes} & {c.class_id for c in second.classes}
    assert Run.open(tmp_path / "a") == first


def test_a_run_in_the_way(tmp_path, configure, data):
    run = Run.create(tmp_path / "run", configure(), data.labels)
    with pytest.raises(RunError, match="--resume continues it, --overwrite replaces it"):
        Run.create(run.path, configure(), data.labels)
    mark = run.path / f"classes.json-5f0c{MARK_SUFFIX}"  # of a repository that uses its registry
    mark.write_text("{}")
    Run.create(run.path, configure(), data.labels, overwrite=True)
    assert mark.exists()


def test_overwrite_replaces_runs_only(tmp_path, configure, data):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="not a run"):
        Run.create(tmp_path, configure(), data.labels, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_resume_needs_the_same_configuration_and_classes(tmp_path, configure, data):
    Run.create(tmp_path / "run", configure(), data.labels)
    with pytest.raises(RunError, match=r"training\.learning_rate differs"):
        Run.resume(tmp_path / "run", configure("training.learning_rate=0.5"), data.labels)
    with pytest.raises(RunError, match="classes differ"):
        Run.resume(tmp_path / "run", configure(), data.labels[1:])


def test_a_diverging_loss_stops_and_keeps_the_checkpoint(tmp_path, configure, data):
    overrides = (
        "training.learning_rate=1e30",
        "training.clip_norm=null",
        "training.warmup_epochs=0",
    )
    run = Run.create(tmp_path / "run", configure(*overrides), data.labels)
    with pytest.raises(RunError, match="not finite at step"):
        train(run, data)
    assert torch.isfinite(load_model(run).prompts).all()


def test_no_cuda_device(tmp_path, configure, data):
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    run = Run.create(tmp_path / "run", configure("training.device=cuda"), data.labels)
    with pytest.raises(ConfigError, match="no CUDA device"):
        train(run, data)


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "foreign"])
def test_damaged_checkpoints(tmp_path, configure, data, damage):
    run = Run.create(tmp_path / "run", configure("training.max_steps=1"), data.labels)
    train(run, data)
    content = run.checkpoint.read_bytes()
    if damage == "missing":
        run.checkpoint.unlink()
    elif damage == "truncated":
        run.checkpoint.write_bytes(content[:-100])
    elif damage == "garbage":
        run.checkpoint.write_bytes(b"\x80\x04pickle" * 10)
    else:
        other = configure("backbone.arguments.embed_dim=32", "training.max_steps=1")
        run = Run(run.path, other, run.classes)
    with pytest.raises(RunError) as caught:
        load_model(run)
    assert "\n" not in str(caught.value)


def test_a_torn_metrics_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"kind": "epoch", "step": 3}) + '\n{"kind": "epo')
    assert read_metrics(path) == [{"kind": "epoch", "step": 3}]


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b"[]", b'{"step": 1}'])
def test_a_damaged_metrics_log_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "train", "step": 1}\n' + line + b"\n")
    with pytest.raises(RunError, match="line 2"):
        read_metrics(path)


def test_a_run_does_not_need_what_it_started_from(tmp_path, configure, data):
    import safetensors.torch

    weights = tmp_path / "weights.safetensors"
    backbone = create_backbone(configure().backbone)
    safetensors.torch.save_file(backbone.state_dict(), weights)
    for name, extra in (("full", ()), ("lora", LORA)):
        config = configure("training.max_steps=1", f"backbone.weights={weights}", *extra)
        train(Run.create(tmp_path / name, config, data.labels), data)
    weights.unlink()
    for name in ("full", "lora"):
        assert torch.isfinite(load_model(Run.open(tmp_path / name)).prompts).all()


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, configure, data, monkeypatch):
    run = Run.create(tmp_path / "run", configure("training.max_steps=1"), data.labels)
    train(run, data)
    before = run.checkpoint.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        train(Run.resume(run.path, configure("training.max_steps=2"), data.labels), data)
    assert run.checkpoint.read_bytes() == before
    assert not [p for p in run.path.iterdir() if p.name.startswith(".") or p.suffix == ".tmp"]


def test_the_best_epoch_is_kept_without_its_optimiser(tmp_path, configure, data, monkeypatch):
    scores = iter([0.9, 0.1])  # of epochs 5 and 6: the first two thirds do not compete
    monkeypatch.setattr("pfm_edge.training._selection.Selection.score", lambda *_: next(scores))
    run = Run.create(
        tmp_path / "run", configure("training.epochs=6", "training.select=best"), data.labels
    )
    train(run, data)
    assert next(scores, None) is None
    per_epoch = -(-len(data.train) // 64)
    contents = run.best.read_bytes()
    assert b"optimizer." not in contents
    assert f'\\"step\\": {5 * per_epoch},'.encode() in contents
    assert run.selected == run.best
    fresh = load_model(run)
    last = Run(run.path, configure("training.epochs=6"), run.classes)
    assert not torch.equal(fresh.prompts, load_model(last).prompts)


def test_selection_never_looks_at_held_out_images(tmp_path, configure, data):
    from pfm_edge.training._selection import Selection

    run = Run.create(tmp_path / "run", configure("training.max_steps=1"), data.labels)
    train(run, data)
    selection = Selection.of(data.train, seed=0)
    rows = selection.sample.rows
    assert len(rows) == len(set(rows.tolist())) == 1000
    assert torch.bincount(selection.sample.labels).tolist() == [100] * 10
    assert selection.sample.split is data.train
    assert -1 <= selection.score(load_model(run)) <= 1


def test_an_interrupted_run_continues_from_the_last_whole_epoch(tmp_path, configure, data):
    every_third = ("training.epochs=3", "training.evaluate_every_epochs=3")
    run = Run.create(tmp_path / "run", configure(*every_third), data.labels)
    per_epoch = -(-len(data.train) // 64)

    def interrupt(event):
        if event.step == per_epoch + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, data, progress=interrupt)
    seen = []
    assert train(run, data, progress=seen.append) == 3 * per_epoch
    assert seen[0].step == per_epoch + 1
