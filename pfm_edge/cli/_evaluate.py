"""`pfm-edge evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli._console import bar, print_json, print_table, say, table
from pfm_edge.cli._forget import finish_run
from pfm_edge.cli._train import open_data

if TYPE_CHECKING:
    from pfm_edge.evaluation import EvaluationReport

__all__ = ["evaluate_command", "evaluate_with_bar", "print_report"]


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="A run directory of pfm-edge train.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure forgetting and every inference mode on held-out images.

    The report is also kept as RUN/evaluation.json.

    Example: pfm-edge evaluate runs/digits
    """
    report = evaluate_with_bar(run)
    if as_json:
        print_json(report.as_dict())
    else:
        say(f"model: {_selected(run)}")
        print_report(report)


def _selected(path: Path) -> Path:
    """The file whose model is evaluated, which is also what an export takes."""
    from pfm_edge.training import Run

    return Run.open(path).selected


def evaluate_with_bar(path: Path) -> "EvaluationReport":
    """Evaluate a run with a progress bar, and keep the report in the run."""
    from pfm_edge.evaluation import evaluate
    from pfm_edge.training import Run, in_use, load_model
    from pfm_edge_runtime.store import write_atomic

    finish_run(path)
    run = Run.open(path)
    with in_use(path), bar("evaluate") as update:
        run.require_current(least=2)
        model = load_model(run)
        data = open_data(run.config).only(run.labels)
        report = evaluate(
            model,
            data.test,
            seed=run.config.seed,
            progress=lambda done, total: update(done, total, "passes"),
        )
        document = json.dumps(report.as_dict(), indent=2) + "\n"
        write_atomic(path / "evaluation.json", document.encode())
    return report


def print_report(report: "EvaluationReport") -> None:
    """Print the tables of a report, with what they can and cannot show."""
    say(
        f"{report.images} held-out images, attention {report.attention}, chance {report.chance:.3f}"
    )
    _print_forgetting(report)
    _print_modes(report)
    say(
        "Claim level L0 at most: outputs that no longer name a class. These figures can falsify "
        "the claim; they cannot show that nothing of the class remains in the weights."
    )


def _print_forgetting(report: "EvaluationReport") -> None:
    print_table(
        table(
            "Forgetting, head rows kept: argmax over all classes",
            ["prompts dropped", "subsets", "forget accuracy", "retain accuracy"],
            [
                [
                    f"{row.removed}",
                    _subsets(row.subsets, row.all_subsets),
                    f"{row.forget_mean:.3f} ± {row.forget_std:.3f}",
                    f"{row.retain_mean:.3f} ± {row.retain_std:.3f}",
                ]
                for row in report.forgetting
            ],
        )
    )
    print_table(
        table(
            "Forgetting as deployed: argmax over the classes present",
            [
                "prompts dropped",
                "retain accuracy",
                "AUROC of confidence",
                "forgotten above threshold",
            ],
            [
                [
                    f"{row.removed}",
                    f"{row.present_mean:.3f} ± {row.present_std:.3f}",
                    f"{row.auroc_mean:.3f}",
                    f"{row.above_threshold_mean:.3f}",
                ]
                for row in report.forgetting
            ],
        )
    )


def _print_modes(report: "EvaluationReport") -> None:
    for kind, title in (
        ("deployable", "Deployable modes"),
        ("diagnostic", "Diagnostic modes: one prompt alone, or another order"),
        ("oracle", "Oracle modes: they use the label"),
    ):
        rows = [row for row in report.modes if row.kind == kind]
        print_table(
            table(
                title,
                ["mode", "accuracy", "mean confidence"],
                [[row.mode, f"{row.accuracy:.3f}", f"{row.confidence:.3f}"] for row in rows],
            )
        )


def _subsets(measured: int, existing: int) -> str:
    return f"{measured}" if measured == existing else f"{measured} of {existing:,}"
