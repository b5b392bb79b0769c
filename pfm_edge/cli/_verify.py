"""`pfm-edge verify`: does every graph of a package compute the model, here and now?"""

from pathlib import Path
from typing import Annotated

import typer

from pfm_edge.cli._console import print_json, say, stages

__all__ = ["verify_command"]


def verify_command(
    package: Annotated[Path, typer.Argument(help="A model package of pfm-edge export.")],
    run: Annotated[
        Path | None,
        typer.Option(help="The run it came from: compare with torch over the whole grid."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a package's digests and the outputs of every graph in it.

    Each graph runs on each backend that is installed, padded and masked where it is static.
    Without --run: against the golden vectors, recorded from torch at export, over batches
    1, 2, 5 and classes 1, 2, 7. With --run: against the run's torch model itself too, up to all
    of its classes.

    Example: pfm-edge verify model --run runs/digits
    """
    from pfm_edge.publishing import verify_against_run
    from pfm_edge.training import Run
    from pfm_edge_exporters import check_golden

    with stages("verify") as stage:
        reports = {"golden": check_golden(package, progress=lambda file: stage(f"running {file}"))}
        if run is not None:
            reports["parity"] = verify_against_run(package, Run.open(run), progress=stage)
    if as_json:
        print_json({name: report.as_dict() for name, report in reports.items()})
        return
    against = {"golden": "golden vectors", "parity": "torch"}
    for name, report in reports.items():
        for graph in report.graphs:
            say(f"{package}: {against[name]}: {graph.summary()}")
        for refusal in report.refused:
            say(f"not run: {refusal}")
