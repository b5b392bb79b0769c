"""`pfm-edge export`."""

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

__all__ = ["export_command"]


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
