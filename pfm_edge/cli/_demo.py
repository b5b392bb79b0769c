"""`pfm-edge demo`: the whole story on scikit-learn's digits."""

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pfm_edge.cli._console import print_json, print_table, say, stages, table
from pfm_edge.cli._evaluate import evaluate_with_bar, print_report
from pfm_edge.cli._train import open_data, start_run, train_with_bar

if TYPE_CHECKING:
    from pfm_edge.data import ClassificationData
    from pfm_edge.demo import Comparison, DeviceProcess, ForgetOutcome
    from pfm_edge.training import Run

__all__ = ["demo_command"]

_IMAGES_MARKER = ".pfm-edge-demo"
_CLAIM = (
    "What this shows: outputs no longer name the class (claim level L0). What it does not show: "
    "that nothing of its images remains in the shared weights."
)


@dataclass(frozen=True, slots=True)
class _Paths:
    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def key(self) -> Path:
        return self.root / "issuer.pem"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def receipt(self) -> Path:
        return self.root / "receipt.json"


def demo_command(
    config: Annotated[Path, typer.Option(help="The configuration to train.")] = Path(
        "configs/digits.yaml"
    ),
    attention: Annotated[str, typer.Option(help="prefix, or joint: the paper's own.")] = "prefix",
    forget: Annotated[str, typer.Option(help="The label that the device forgets.")] = "7",
    out: Annotated[Path, typer.Option(help="Where everything goes; replaced.")] = Path("demo"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration."),
    ] = None,
    device_python: Annotated[
        Path | None, typer.Option(help="Python of an environment with the runtime alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train, export, and let a torch-free process predict, forget and predict again.

    Example: pfm-edge demo --attention joint
    """
    from pfm_edge.demo import DeviceProcess

    paths = _Paths(out)
    device = DeviceProcess(paths.model, paths.state, device_python)
    device.prove_torch_free()  # before minutes of training
    run, data = _train(config, [f"attention={attention}", *(set_ or [])], paths, forget)
    report = evaluate_with_bar(paths.run)
    if not as_json:
        print_report(report)
    seconds = _export(paths)
    comparison, outcome = _on_device(device, paths, run, data, forget)
    statement = _check_receipt(device, paths, outcome)
    figures = {
        "attention": attention,
        "full_bank_accuracy": report.mode("full_bank").accuracy,
        "forget_accuracy_k1": report.forgetting[0].forget_mean,
        "export_seconds": seconds,
        **{k: v for k, v in comparison.as_dict().items() if not k.startswith("confusion")},
        **{k: v for k, v in asdict(outcome).items() if k != "receipt"},
        "receipt": statement,
    }
    _keep(paths, run, comparison, figures, forget)
    if as_json:
        print_json(figures)
    else:
        _print_story(comparison, outcome, seconds, forget)
        _print_receipt(paths.receipt, statement)
        say(f"{paths.root / 'report.png'} has the picture. {_CLAIM}")


def _train(
    config: Path, overrides: Sequence[str], paths: _Paths, forget: str
) -> tuple["Run", "ClassificationData"]:
    from pfm_edge.config import load_config
    from pfm_edge.errors import DataError

    parsed = load_config(config, tuple(overrides))
    data = open_data(parsed)
    if forget not in data.labels:
        raise DataError(f"--forget '{forget}': no such label; one of {', '.join(data.labels)}")
    run = start_run(paths.run, parsed, data, overwrite=True)
    train_with_bar(run, data)
    return run, data


def _export(paths: _Paths) -> float:
    """Export the run; returns the seconds that took, which is what each re-export would take."""
    from pfm_edge.publishing import export_run, public_path, read_signing_keys, write_key_pair
    from pfm_edge.training import Run

    if not paths.key.exists():
        public_path(paths.key).unlink(missing_ok=True)
        write_key_pair(paths.key, passphrase=None)
    signers = read_signing_keys([paths.key])
    started = perf_counter()
    with stages("export") as stage:
        exported = export_run(
            Run.open(paths.run), paths.model, signers=signers, overwrite=True, progress=stage
        )
    say(exported.summary())
    return perf_counter() - started


def _on_device(
    device: "DeviceProcess", paths: _Paths, run: "Run", data: "ClassificationData", forget: str
) -> tuple["Comparison", "ForgetOutcome"]:
    from pfm_edge.demo import compare
    from pfm_edge.publishing import public_path

    ids = [record.class_id for record in run.classes]
    gone = ids[list(data.labels).index(forget)]
    with stages("device") as stage:
        stage("writing the held-out images as files")
        images = _write_images(paths.images, data)
        stage("telling the device whom to trust")
        _remove_state(paths.state)
        device.trust(public_path(paths.key))
        stage("predicting")
        classes = device.classes()
        before = device.predict(images)
        stage("forgetting")
        outcome = device.forget(gone)
        stage("predicting again")
        after = device.predict(images)
    truth = [ids[int(label)] for label in data.test.labels]
    return compare(truth, before, after, classes, gone), outcome


def _remove_state(state: Path) -> None:
    """Remove the device of an earlier demo: this one's numbers its bundles from one again."""
    from pfm_edge.errors import RunError

    if not state.exists():
        return
    if not (state / "ledger.jsonl").exists():
        raise RunError(f"{state}: no device's memory, so it is not replaced; name another --out")
    shutil.rmtree(state)


def _check_receipt(
    device: "DeviceProcess", paths: _Paths, outcome: "ForgetOutcome"
) -> dict[str, Any]:
    """Keep the receipt, have it verified, and return the statement in it."""
    from pfm_edge_runtime.store import write_atomic

    write_atomic(paths.receipt, outcome.receipt.encode())
    device.verify_receipt(paths.receipt)
    payload: dict[str, Any] = json.loads(base64.b64decode(json.loads(outcome.receipt)["payload"]))
    return payload


def _write_images(folder: Path, data: "ClassificationData") -> list[Path]:
    from pfm_edge_runtime.images import load_image
    from pfm_edge_runtime.store import staged_directory

    names = [f"{index:05d}.png" for index in range(len(data.test))]
    with staged_directory(folder, overwrite=True, marker=_IMAGES_MARKER) as staging:
        for index, name in enumerate(names):
            load_image(data.test.source(index), data.mode).save(staging / name)
        (staging / _IMAGES_MARKER).touch()
    return [folder / name for name in names]


def _keep(
    paths: _Paths, run: "Run", comparison: "Comparison", figures: dict[str, Any], forget: str
) -> None:
    from pfm_edge.demo import draw
    from pfm_edge.training import read_metrics
    from pfm_edge_runtime.store import write_atomic

    epochs = [record for record in read_metrics(run.metrics) if record["kind"] == "epoch"]
    draw(paths.root / "report.png", epochs, comparison, sorted(run.labels), forget)
    write_atomic(paths.root / "report.json", (json.dumps(figures, indent=2) + "\n").encode())


def _print_receipt(path: Path, statement: dict[str, Any]) -> None:
    said = statement["predicate"]
    old = said["old_bytes"]
    place = {True: "in place", False: "not in place", None: "in place or not"}[old["in_place"]]
    rows = [
        ["class", said["class_id"]],
        ["signed by device", said["device"]],
        ["at", f"{said['time']}, clock {said['clock']}"],
        ["old bytes", f"{old['method']}, {place} on {old['file_system']}"],
        ["ledger", f"record {said['ledger']['number']}, {said['ledger']['head'][:16]}…"],
        ["new bundle", statement["subject"][0]["digest"]["sha256"]],
    ]
    print_table(table(f"The device's receipt ({path}), verified", ["it states", ""], rows))


def _print_story(
    comparison: "Comparison", outcome: "ForgetOutcome", export_seconds: float, forget: str
) -> None:
    becomes = ", ".join(f"{label}: {count}" for label, count in comparison.gone_becomes[:3])
    ratio = 1e3 * export_seconds / outcome.milliseconds
    rows = [
        [
            "accuracy, classes that stay",
            f"{comparison.retain_before:.3f}",
            f"{comparison.retain_after:.3f}",
        ],
        [f"accuracy, images of '{forget}'", f"{comparison.gone_before:.3f}", f"named {becomes}"],
        [
            f"mean score, images of '{forget}'",
            f"{comparison.gone_score_before:.3f}",
            f"{comparison.gone_score_after:.3f}",
        ],
        ["AUROC of score, kept against forgotten", "", f"{comparison.auroc:.3f}"],
        ["forgotten above the score threshold", "", f"{comparison.gone_above_threshold:.3f}"],
        ["bundle, bytes", f"{outcome.bytes_before:,}", f"{outcome.bytes_after:,}"],
        [
            "forget, against a re-export",
            f"{export_seconds:.1f} s to re-export",
            f"{outcome.milliseconds:.1f} ms ({ratio:,.0f} times faster)",
        ],
    ]
    print_table(table("A torch-free device, before and after", ["", "before", "after"], rows))
