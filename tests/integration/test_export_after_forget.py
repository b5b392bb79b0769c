"""A run that forgot a class is exported: its other classes, judged by their own labels."""

import json

from pfm_edge.cli import main
from pfm_edge.training import Run
from pfm_edge_runtime import Classifier

CONFIG = """
data: {name: digits, test_fraction: 0.05}
backbone:
  model: vit_tiny_patch16_224
  arguments: {img_size: 8, patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2, in_chans: 1}
adaptation: {kind: full}
training: {epochs: 3, batch_size: 64, device: cpu}
"""


def test_after_a_forget_the_others_are_judged_by_their_own_labels(tmp_path, capsys):
    run = tmp_path / "run"
    (tmp_path / "small.yaml").write_text(CONFIG)
    assert main(["train", str(tmp_path / "small.yaml"), "--out", str(run)]) == 0
    gone = Run.open(run).classes[0]
    assert main(["forget", str(run), "--class", gone.class_id, "--yes"]) == 0
    capsys.readouterr()
    options = ["--image-size", "8", "--out", str(tmp_path / "model"), "--json"]
    assert main(["export", str(run), *options]) == 0
    accuracy = json.loads(capsys.readouterr().out)["graphs"][0]["accuracy"]
    assert 60 < accuracy["images"] < 88  # of about 90, without those of the class
    assert accuracy["before"] > 0.25  # labels and rows are the same classes: chance is 0.11
    assert accuracy["same"] == 1  # and the graph's rows are the run's
    labels = {each.label for each in Classifier.open(tmp_path / "model").classes}
    assert len(labels) == 9
    assert gone.label not in labels
