"""The metric on a model whose behaviour is planted, so that every figure is known beforehand."""

import math

import numpy as np
import pytest
import torch

from pfm_edge.evaluation import auroc, epoch_metrics, evaluate, share_above_threshold
from pfm_edge.evaluation._banks import all_but
from pfm_edge.evaluation._forgetting import removal_counts, removed_subsets

CLASSES, EACH = 4, 25


class PlantedModel:
    """Knows an image's class exactly when that class's prompt is present; else says `default`."""

    kind = "planted"

    def __init__(self, default: int = 0):
        self.prompts = torch.zeros(CLASSES, 1)
        self.num_classes = CLASSES
        self.default = default
        self.attention = self

    def eval(self):
        return self

    def encode(self):
        return {}

    def select(self, tensors, banks):
        return banks

    def embed(self, images, banks):
        banks = banks if banks.ndim == 2 else banks.expand(len(images), -1)
        logits = torch.zeros(len(images), CLASSES)
        logits[:, self.default] = 0.1
        present = (banks == images[:, None]).any(dim=1)
        logits[present, images[present]] = 8.0
        return logits

    def head(self, logits):
        return logits


class PlantedSplit:
    """An image is its label."""

    def __init__(self):
        self.labels = torch.arange(CLASSES).repeat_interleave(EACH)

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        return self.labels[indices]


def test_a_model_that_forgets():
    report = evaluate(PlantedModel(), PlantedSplit(), seed=0)
    one, two, three = report.forgetting
    assert [row.removed for row in report.forgetting] == [1, 2, 3]
    assert [row.subsets for row in report.forgetting] == [4, 6, 4]
    # Only class 0 is still named without its prompt: it is what the model says by default.
    assert one.forget_by_class == (1.0, 0.0, 0.0, 0.0)
    assert one.forget_mean == pytest.approx(0.25)
    assert one.forget_std == pytest.approx(math.sqrt(3) / 4)
    assert two.forget_mean == pytest.approx(0.25)  # half of the images of 3 of 6 subsets
    assert all(row.retain_mean == row.present_mean == 1.0 for row in report.forgetting)
    assert one.auroc_mean == two.auroc_mean == 1.0
    assert one.above_threshold_mean == 0.0
    assert three.auroc_mean == 0.5  # one class present: every score is 1
    assert three.above_threshold_mean == 1.0


def test_modes():
    report = evaluate(PlantedModel(default=2), PlantedSplit(), seed=0)
    accuracy = {row.mode: row.accuracy for row in report.modes}
    assert accuracy["full_bank"] == accuracy["full_bank_shuffle"] == 1.0
    assert accuracy["match_only"] == accuracy["mixed_subset"] == accuracy["infer_best"] == 1.0
    assert accuracy["none"] == accuracy["all_wrong"] == accuracy["random_wrong"] == 0.25
    assert accuracy["class_1"] == 0.5  # its own images, and class 2 by default
    assert accuracy["class_2"] == 0.25
    assert [row.mode for row in report.modes if row.kind == "deployable"] == [
        "full_bank",
        "none",
        "infer_best",
    ]
    oracle = {row.mode for row in report.modes if row.kind == "oracle"}
    assert oracle == {"match_only", "mixed_subset", "all_wrong", "wrong_subset", "random_wrong"}


def test_progress_reaches_its_total():
    seen = []
    evaluate(PlantedModel(), PlantedSplit(), seed=0, progress=lambda *state: seen.append(state))
    assert seen[-1][0] == seen[-1][1]


def test_the_epoch_figures():
    metrics = epoch_metrics(PlantedModel(default=3), PlantedSplit(), seed=0)
    assert metrics.full_bank_accuracy == metrics.retain_accuracy == 1.0
    assert metrics.forget_accuracy_by_class == (0.0, 0.0, 0.0, 1.0)
    assert metrics.forget_accuracy == 0.25


def test_all_but():
    assert all_but(torch.tensor([0, 2, 3]), 4).tolist() == [[1, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_subsets_are_exhaustive_or_sampled():
    assert removal_counts(2) == [1]
    assert removal_counts(10) == [1, 5, 9]
    assert len(removed_subsets(10, 5, seed=0)) == 252
    sample = removed_subsets(20, 10, seed=0)
    assert len(sample) == len(set(sample)) == 1000
    assert sample == removed_subsets(20, 10, seed=0)
    assert all(len(set(subset)) == 10 for subset in sample)
    counts = np.bincount([c for subset in sample for c in subset], minlength=20)
    assert counts.min() > 420


def test_auroc_counts_pairs():
    retained, forgotten = np.float32([0.9, 0.8, 0.5]), np.float32([0.7, 0.5])
    pairs = [(r > f) + 0.5 * (r == f) for r in retained for f in forgotten]
    assert auroc(retained, forgotten) == pytest.approx(np.mean(pairs))


def test_share_above_threshold():
    retained = np.linspace(0, 1, 101, dtype=np.float32)  # 95 % reach 0.05
    assert share_above_threshold(retained, np.float32([0.01, 0.04, 0.06, 0.9])) == 0.5
