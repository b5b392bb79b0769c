"""`pfm-edge export` and `pfm-edge verify`."""

from pathlib import Path
from typing import Annotated

import typer

from pfm_edge.cli._console import print_json, say, stages
from pfm_edge.cli._export_target import (
    Asked,
    ForgetRun,
    ListTargets,
    TargetName,
    TargetOptions,
    Untracked,
    onnx_source,
)
from pfm_edge.cli._forget import finish_run
from pfm_edge.cli._keys import KeyOption, PassphraseFile, load_signers

__all__ = ["export_command", "verify_command"]


def export_command(
    context: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE",
            help="A run directory of pfm-edge train; for other targets a model package.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="What to write: the model package, or a target's own.")
    ] = Path("model"),
    target: TargetName = "onnx",
    target_options: TargetOptions = None,
    list_targets: ListTargets = False,
    forget_run: ForgetRun = None,
    untracked: Untracked = False,
    key: KeyOption = None,
    passphrase_file: PassphraseFile = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the package that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Export a run once: ONNX backbone, manifest, golden vectors and the prompt bundle.

    The graph is compared with torch over batches 1, 2, 5 and classes 1, 2, 7 and all; a package
    that differs by more than 1e-4 is not written. Other targets are made of a model package.

    Example: pfm-edge export runs/digits --out model --key issuer.pem

    Example: pfm-edge export model --target triton --run runs/digits
    """
    asked = Asked(run, target, target_options or [], list_targets, forget_run, untracked)
    source = onnx_source(context, asked)
    if source is None:
        return
    from pfm_edge.publishing import export_run
    from pfm_edge.training import Run

    signers = load_signers(key, passphrase_file)
    finish_run(source)
    with stages("export") as stage:
        exported = export_run(
            Run.open(source), out, signers=signers, overwrite=overwrite, progress=stage
        )
    if as_json:
        print_json(exported.as_dict())
        return
    say(exported.summary())
    if not signers:
        say("not signed: a device that trusts keys refuses it; pfm-edge bundle sign adds one")


def verify_command(
    package: Annotated[Path, typer.Argument(help="A model package of pfm-edge export.")],
    run: Annotated[
        Path | None,
        typer.Option(help="The run it came from: compare with torch over the whole grid."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a package's digests and its graph's outputs.

    Without --run: against the golden vectors, recorded from torch at export, over batches
    1, 2, 5 and classes 1, 2, 7. With --run: against the run's torch model itself.

    Example: pfm-edge verify model --run runs/digits
    """
    from pfm_edge.publishing import verify_against_run
    from pfm_edge.training import Run
    from pfm_edge_exporters import check_golden

    with stages("verify") as stage:
        stage("golden vectors")
        golden = check_golden(package)
        parity = None
        if run is not None:
            parity = verify_against_run(package, Run.open(run), progress=stage)
    if as_json:
        documents = {"golden": golden.as_dict()}
        print_json(documents | ({"parity": parity.as_dict()} if parity else {}))
    else:
        say(f"{package}: golden vectors agree to {golden.worst:.1e}")
        if parity is not None:
            say(f"{package}: torch and ONNX Runtime agree to {parity.worst:.1e} over the grid")
