"""What a path on the command line is: a training run, a model package, or neither."""

from pathlib import Path

from pfm_edge_runtime.manifest import MANIFEST_FILE

__all__ = ["is_package", "is_run"]


def is_package(path: Path) -> bool:
    """Tell whether a directory looks like a model package."""
    return (path / MANIFEST_FILE).exists()


def is_run(path: Path) -> bool:
    """Tell whether a directory looks like a training run, and not like a package."""
    return (path / "classes.json").exists() and not is_package(path)
