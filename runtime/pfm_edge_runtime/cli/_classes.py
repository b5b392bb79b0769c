"""``pfm-device classes``: what the model knows."""

import argparse

from pfm_edge_runtime.cli._arguments import Commands, add_command
from pfm_edge_runtime.cli._output import note, write_json, write_row

__all__ = ["add_to"]

_EXAMPLE = """\
  pfm-device classes model/
  pfm-device classes model/ --json
"""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    add_command(
        commands,
        "classes",
        "List the classes that the model knows: id and label, one line each.",
        _EXAMPLE,
        _run,
    )


def _run(arguments: argparse.Namespace) -> None:
    from pfm_edge_runtime.opening import open_model

    bundle = open_model(
        arguments.model,
        state=arguments.state,
        require_state=arguments.require_state,
        verify_files=False,
    ).bundle
    classes = list(zip(bundle.class_ids, bundle.labels, strict=True))
    if arguments.json:
        rows = [{"class_id": class_id, "label": label} for class_id, label in classes]
        write_json({"classes": rows})
        return
    for class_id, label in classes:
        write_row(class_id, label)
    if not classes:
        note("no class is left: every one was forgotten")
