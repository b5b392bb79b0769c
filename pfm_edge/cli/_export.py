"""`pfm-edge export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli._console import print_json, say, stages
from pfm_edge.cli._export_graphs import (
    Batch,
    CalibrationImages,
    FoldNormalization,
    Force,
    ImageSize,
    MaxAccuracyDrop,
    MaxClasses,
    Opset23,
    Precisions,
    Static,
    parse_image_size,
)
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

if TYPE_CHECKING:
    from pfm_edge.publishing import ExportedRun, GraphRequest
    from pfm_edge_runtime.keys import SigningKey

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
    precision: Precisions = None,
    static: Static = False,
    max_classes: MaxClasses = None,
    batch: Batch = None,
    image_size: ImageSize = None,
    fold_normalization: FoldNormalization = False,
    opset23: Opset23 = False,
    calibration: CalibrationImages = None,
    max_accuracy_drop: MaxAccuracyDrop = 0.5,
    force: Force = False,
    key: KeyOption = None,
    passphrase_file: PassphraseFile = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the package that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Export a run once: ONNX backbone, manifest, golden vectors and the prompt bundle.

    The graph is compared with torch over batches 1, 2, 5 and classes 1, 2, 7 and all; a package
    that differs by more than 1e-4 is not written. Other targets are made of a model package.

    Graphs in fewer bits stand beside it in one package, for one bundle: they are compared, too, and
    what they lose on held-out images is measured and printed.

    Example: pfm-edge export runs/digits --out model --key issuer.pem

    Example: pfm-edge export runs/digits --precision fp16 --static --max-classes 32

    Example: pfm-edge export model --target triton --run runs/digits
    """
    asked = Asked(run, target, target_options or [], list_targets, forget_run, untracked)
    source = onnx_source(context, asked)
    if source is None:
        return
    from pfm_edge.publishing import GraphRequest

    graphs = GraphRequest(
        precisions=tuple(each.value for each in precision or ()),
        static=static,
        max_classes=max_classes,
        batch=batch,
        image_size=parse_image_size(image_size),
        fold_normalization=fold_normalization,
        opset23=opset23,
        calibration=calibration,
        max_accuracy_drop=max_accuracy_drop,
        force=force,
    )
    signers = load_signers(key, passphrase_file)
    exported = _export(source, out, graphs, signers, overwrite=overwrite)
    _tell(exported, signed=bool(signers), as_json=as_json)


def _export(
    source: Path,
    out: Path,
    graphs: "GraphRequest",
    signers: tuple["SigningKey", ...],
    *,
    overwrite: bool,
) -> "ExportedRun":
    from pfm_edge.publishing import export_run
    from pfm_edge.training import Run

    finish_run(source)
    run = Run.open(source)
    with stages("export") as stage:
        return export_run(
            run, out, signers=signers, overwrite=overwrite, graphs=graphs, progress=stage
        )


def _tell(exported: "ExportedRun", *, signed: bool, as_json: bool) -> None:
    if as_json:
        print_json(exported.as_dict())
        return
    for line in (*exported.report.details(), exported.summary()):
        say(line)
    if not signed:
        say("not signed: a device that trusts keys refuses it; pfm-edge bundle sign adds one")
