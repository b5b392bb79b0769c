"""What is asked for: names, contradictions, and how a graph is judged."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from pfm_edge_exporters import Calibration, ExportError, ExportOptions, HeldOut
from pfm_edge_exporters._judging import compare_accuracy, compare_speed, predictions
from pfm_edge_runtime.backends import Outputs
from pfm_edge_runtime.manifest import Variant


def test_names_say_what_a_graph_is():
    options = ExportOptions(3, precisions=("int8", "fp16"), capacity=16, batch=2, opset23=True)
    assert options.variants() == (
        Variant("backbone.onnx", "fp32"),
        Variant("backbone.fp16.onnx", "fp16"),
        Variant("backbone.int8.onnx", "int8"),
        Variant("backbone.opset23.onnx", "fp32", opset=23),
        Variant("backbone.static-16.onnx", "fp32", 16, 2),
        Variant("backbone.fp16.static-16.onnx", "fp16", 16, 2),
        Variant("backbone.int8.static-16.onnx", "int8", 16, 2),
    )
    assert ExportOptions(3).variants() == (Variant("backbone.onnx", "fp32"),)


def test_each_graph_but_the_first_can_be_left_out():
    options = ExportOptions(3, precisions=("int8", "fp16"), capacity=16, opset23=True)
    calibrated = replace(options, calibration=calibration())
    found = [options.way_without(each) for each in options.variants()]
    assert found[:5] == [
        None,
        "leave out --precision fp16",
        "leave out --precision int8",
        "leave out --opset23",
        "leave out --static",
    ]
    eight_bits = options.variants()[2]
    assert calibrated.way_without(eight_bits).startswith("leave out --calibration, or ")


def calibration() -> Calibration:
    return Calibration("noise", lambda: iter(()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_classes": 0}, "max_classes must be 1 or more"),
        ({"capacity": 2}, "no room for the 3 that there are"),
        ({"batch": 2}, "goes with --static alone"),
        ({"capacity": 3, "batch": 0}, "fixed batch of 1 or more"),
        ({"calibration": calibration()}, "add --precision int8"),
        ({"max_accuracy_drop": -1}, "0 to 100 points"),
    ],
)
def test_contradictions_are_one_line(options, words):
    with pytest.raises(ExportError, match=words):
        ExportOptions(**{"max_classes": 3, **options})


class Said:
    """A graph that says what it was told to."""

    def __init__(self, classes=(), seconds=0.0, clock=None):
        self.classes, self.seconds, self.clock = list(classes), seconds, clock

    def run(self, images, class_tensors):
        if self.clock is not None:
            self.clock.now += self.seconds
        logits = np.zeros((len(images), 3), np.float32)
        for row in logits:
            row[self.classes.pop(0) if self.classes else 0] = 1
        return Outputs(logits, logits)


def test_accuracy_is_what_was_right_before_and_after():
    images = np.zeros((4, 1, 2, 2), np.float32)
    labels = np.array([0, 1, 2, 2])
    held_out = HeldOut(labels, lambda: iter([images[:3], images[3:]]), {})
    done = []
    found = predictions(Said([0, 1, 1, 2]), held_out, lambda *counts: done.append(counts))
    assert found.tolist() == [0, 1, 1, 2]
    assert done == [(3, 4), (4, 4)]
    accuracy = compare_accuracy(found, np.array([0, 1, 2, 0]), labels)
    assert (accuracy.before, accuracy.after, accuracy.same) == (0.75, 0.75, 0.5)
    assert accuracy.drop == 0
    worse = compare_accuracy(np.zeros(4, np.int64), found, labels)
    assert worse.drop == pytest.approx(50)
    assert worse.as_dict()["drop_points"] == 50
    assert "accuracy 0.2500 on 4 held-out images (before 0.7500" in str(worse)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("slow", "fast"), [(0.004, 0.002), (0.001, 0.004)])
def test_speed_is_the_best_of_alternating_runs(slow, fast, monkeypatch):
    monkeypatch.setattr("pfm_edge_exporters._judging.time.sleep", lambda _: None)
    clock = Clock()
    before, after = Said(seconds=slow, clock=clock), Said(seconds=fast, clock=clock)
    speed = compare_speed(before, after, np.zeros((1, 1, 2, 2), np.float32), {}, clock=clock)
    assert speed.ratio == pytest.approx(slow / fast)
    assert (speed.before, speed.after) == (pytest.approx(slow), pytest.approx(fast))
    assert speed.rounds == 15


def test_a_slow_pair_ends_the_comparison(monkeypatch):
    monkeypatch.setattr("pfm_edge_exporters._judging.time.sleep", lambda _: None)
    ticks = itertools.count(step=15)
    speed = compare_speed(
        Said(), Said(), np.zeros((1, 1, 2, 2), np.float32), {}, clock=lambda: float(next(ticks))
    )
    assert speed.rounds == 1
