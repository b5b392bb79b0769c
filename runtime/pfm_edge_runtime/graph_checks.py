"""Does every graph of a package compute the model on this machine, and who executes it?

Owns the part of the doctor that runs graphs: each is loaded as an application would load it, runs
on the golden vectors, and says which provider executed its nodes; that a library lists a provider
proves nothing::

    for check in examine_graphs(Path("model")):
        check.status, check.finding
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pfm_edge_runtime.agreement import TOLERANCES, Comparison, farthest
from pfm_edge_runtime.backends import BackendFactory, Execution, load_backend
from pfm_edge_runtime.errors import BackendError, BackendUnavailableError, PfmEdgeError
from pfm_edge_runtime.golden import GoldenVectors, read_golden, run_golden
from pfm_edge_runtime.manifest import Variant
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.state import Check
from pfm_edge_runtime.variants import VariantGraph

__all__ = ["examine_graphs", "graph_count"]

_BATCHES = (1, 2)  # both axes move; more would only take longer
_SHOWN = 6  # kinds of operators
_NAME = "graph"


class _NotLoadedError(Exception):
    """The backend does not take a graph; another graph of the package may serve."""


def examine_graphs(
    directory: Path,
    *,
    backend: str = "onnxruntime",
    report: Callable[[int], None] = lambda _: None,
) -> Iterator[Check]:
    """Run every graph of a package whose files are in order.

    A graph that this machine cannot load is worth a note where another one runs, for the
    classifier takes that; it is a problem where none does.

    Args:
        directory: The package.
        backend: What runs the graphs.
        report: Is told how many graphs more were run.
    """
    try:
        load = load_backend(backend)
        files = PackageFiles.open(directory, verify_files=False)
        golden = read_golden(files)
    except PfmEdgeError as error:
        yield Check(_NAME, "problem", str(error))
        return
    refused: list[str] = []
    for variant in files.manifest.variants:
        try:
            yield _examine(files, golden, variant, load)
        except BackendUnavailableError as error:
            yield Check(_NAME, "note", f"not run: {error}")
            return
        except _NotLoadedError as error:
            refused.append(f"{variant.file}: {error}")
        report(1)
    for finding in refused:
        none = len(refused) == len(files.manifest.variants)
        yield Check(_NAME, "problem" if none else "note", f"{finding}; it cannot run here")


def graph_count(directory: Path) -> int:
    """Return how many graphs :func:`examine_graphs` will run, as far as that can be told."""
    try:
        return len(PackageFiles.open(directory, verify_files=False).manifest.variants)
    except PfmEdgeError:
        return 0


def _examine(
    files: PackageFiles, golden: GoldenVectors, variant: Variant, load: BackendFactory
) -> Check:
    """Run one graph.

    Raises:
        BackendUnavailableError: The library behind the backend is not installed.
        _NotLoadedError: The backend does not take the graph.
    """
    loaded = False
    try:
        data = files.read_graph(variant)
        # A number of our own, for ONNX Runtime would pin its threads, which a unit may forbid.
        with load.tracing(data, threads=os.cpu_count()) as backend:
            loaded = True
            graph = VariantGraph.of(backend, variant, files.manifest)
            rows = run_golden(golden, graph, _BATCHES)
        execution = backend.execution
    except BackendUnavailableError:
        raise
    except BackendError as error:
        if not loaded:
            raise _NotLoadedError(str(error)) from error
        return Check(_NAME, "problem", f"{variant.file}: {error}")
    except PfmEdgeError as error:
        return Check(_NAME, "problem", str(error))
    return _judged(variant, rows, backend.describe(), execution)


def _judged(
    variant: Variant, rows: Sequence[Comparison], where: str, execution: Execution
) -> Check:
    tolerance = TOLERANCES[variant.precision]
    row = farthest(rows, tolerance)
    if not row.difference.within(tolerance):
        return Check(
            _NAME,
            "problem",
            f"{variant.file} in {where} does not compute its golden vectors: for {row.point} "
            f"{row.difference.against(tolerance)}",
            "use another graph of the package, or another version of the library",
        )
    exact = tolerance.absolute is not None
    agreed = f"{row.worst:.1e}" if exact else f"cosine {row.difference.cosine:.5f}"
    finding = (
        f"{variant.file} ({variant.precision}) in {where}: golden vectors to {agreed}; "
        f"{_who(execution.operators)}"
    )
    idle = [each for each in execution.providers if each not in execution.operators]
    if idle:
        return Check(_NAME, "note", f"{finding}; {' and '.join(idle)} executed nothing")
    return Check(_NAME, "ok", finding)


def _who(operators: Mapping[str, Mapping[str, int]]) -> str:
    """Return which provider executed how many nodes, and of which kinds most."""
    said = []
    for provider, counts in operators.items():
        kinds = [f"{operator} {count}" for operator, count in counts.items()]
        shown = ", ".join(kinds[:_SHOWN]) + (", …" if len(kinds) > _SHOWN else "")
        total = sum(counts.values())
        said.append(f"{provider} executed {total} node{'s'[: total != 1]} ({shown})")
    return ", ".join(said)
