"""`pfm-edge train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli._console import bar, print_json, say
from pfm_edge.cli._forget import finish_run

if TYPE_CHECKING:
    from pfm_edge.config import Config
    from pfm_edge.data import ClassificationData
    from pfm_edge.training import Run

__all__ = ["open_data", "start_run", "train_command", "train_with_bar"]


def train_command(
    config: Annotated[
        Path, typer.Argument(help="A YAML configuration, such as configs/digits.yaml.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The run directory; runs/<name of the config> by default.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key, such as training.epochs=5."
        ),
    ] = None,
    registry: Annotated[
        Path | None,
        typer.Option(help="A class registry that runs share; the run's own by default."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run from its checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the run that is there.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the last figures as JSON.")
    ] = False,
) -> None:
    """Train a pre-forgettable model.

    Example: pfm-edge train configs/digits.yaml --out runs/digits --set training.epochs=40
    """
    from pfm_edge.config import load_config
    from pfm_edge.training import Run, read_metrics

    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    parsed = load_config(config, tuple(set_ or ()))
    if registry is not None:
        parsed = parsed.model_copy(update={"registry": registry})
    path = out or Path("runs") / config.stem
    if resume:
        finish_run(path)
    data = open_data(parsed)
    if resume:
        run = Run.resume(path, parsed, data.labels)
        data = _known_to(run, data)
    else:
        run = start_run(path, parsed, data, overwrite=overwrite)
    step = train_with_bar(run, data)
    last = [r for r in read_metrics(run.metrics) if r["kind"] in {"epoch", "stop"}][-1:]
    if as_json:
        print_json({"run": str(path), "step": step, "metrics": last[0] if last else None})
    else:
        say(f"{path}: {step} steps" + _figures(last[0] if last else {}))


def start_run(
    path: Path, config: "Config", data: "ClassificationData", *, overwrite: bool
) -> "Run":
    """Create a run, once all that can be refused has been: an old run goes for nothing else."""
    from pfm_edge.model import create_backbone
    from pfm_edge.training import Run, training_device

    training_device(config.training.device)
    create_backbone(config.backbone)
    return Run.create(path, config, data.labels, overwrite=overwrite)


def open_data(config: "Config") -> "ClassificationData":
    """Load the data of a configuration, preprocessed for its backbone."""
    from pfm_edge.data import load_data
    from pfm_edge.model import create_backbone, image_input, preprocessing
    from pfm_edge_runtime.preprocessing import Preprocessor

    # The shape and the preprocessing alone are wanted here: no weights are read.
    bare = config.backbone.model_copy(update={"weights": None, "pretrained": False})
    backbone = create_backbone(bare)
    preprocessor = Preprocessor(preprocessing(bare, backbone), image_input(backbone))
    with bar("data") as update:
        return load_data(
            config.data, preprocessor, lambda done, total: update(done, total, "images")
        )


def train_with_bar(run: "Run", data: "ClassificationData") -> int:
    """Train with a progress bar; returns the number of steps that the run now has."""
    from pfm_edge.training import TrainingEvent, train

    with bar("train") as update:
        note = ""

        def show(event: TrainingEvent) -> None:
            nonlocal note
            if event.metrics is not None:
                note = (
                    f"retain {event.metrics.retain_accuracy:.3f} "
                    f"forget {event.metrics.forget_accuracy:.3f}"
                )
            update(event.step, event.total_steps, f"loss {event.loss:.3f} {note}")

        return train(run, data, progress=show)


def _known_to(run: "Run", data: "ClassificationData") -> "ClassificationData":
    """Leave out the images of classes that the run has forgotten, and say so."""
    left_out = len(data.labels) - len(run.classes)
    if left_out:
        forgotten = f"of classes that were forgotten: {left_out}"
        say(f"{run.path}: images of the data are left out, {forgotten}")
    return data.only(run.labels)


def _figures(record: dict[str, float]) -> str:
    if not record:
        return ""
    return (
        f", full bank {record['full_bank_accuracy']:.3f}, retain {record['retain_accuracy']:.3f}, "
        f"forget {record['forget_accuracy']:.3f}"
    )
