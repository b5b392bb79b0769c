"""How the workstation talks: results on standard output, progress and errors on standard error."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

__all__ = ["bar", "can_ask", "print_json", "print_table", "say", "stages", "table"]

_errors = Console(stderr=True, highlight=False, emoji=False)
_out = Console(highlight=False, emoji=False)


def can_ask() -> bool:
    """Tell whether there is a person to ask: standard input may be a file, or closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def say(message: str) -> None:
    """Tell a person what happened; never part of a result."""
    shown = "".join(each if each.isprintable() else " " for each in message)
    _errors.print(shown, markup=False, soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on standard output."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """Make a table; the first column is text, the others are figures."""
    out = Table(title=title, title_justify="left", title_style="bold")
    for position, name in enumerate(columns):
        out.add_column(name, justify="right" if position else "left", overflow="fold")
    for row in rows:
        out.add_row(*map(Text, row))  # a label is text, not markup
    return out


def print_table(content: Table) -> None:
    """Print a table on standard output."""
    _out.print(content)


def _progress(*columns: ProgressColumn) -> Progress:
    """Progress belongs to a terminal, and leaves nothing behind there."""
    return Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal)


@contextmanager
def bar(description: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar from the first update on; yields `update(done, total, note)`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with _progress(*columns) as progress:
        task = progress.add_task(description, total=None, note="", visible=False)

        def update(done: int, total: int, note: str) -> None:
            progress.update(task, completed=done, total=total, note=note, visible=True)

        yield update


@contextmanager
def stages(description: str) -> Iterator[Callable[[str], None]]:
    """Show which stage of a longer job is running; yields `stage(name)`."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with _progress(*columns) as progress:
        task = progress.add_task(description, total=None)

        def stage(name: str) -> None:
            progress.update(task, description=f"{description}: {name}")

        yield stage
