"""The health check of a new bundle: what a device asks before it takes the old one away.

Owns the three questions: does a graph of the package take so many classes, does it compute the
package's golden vectors here, and does it answer with finite values on the new bundle::

    check_health(files, bundle, backend="onnxruntime")       # or UpdateError

The golden vectors are noise and synthetic class tensors: no class of anybody is in them.
"""

import os

import numpy as np

from pfm_edge_runtime._layout import wipe
from pfm_edge_runtime.agreement import TOLERANCES, farthest
from pfm_edge_runtime.backends import BackendFactory, load_backend
from pfm_edge_runtime.bundle import VerifiedBundle
from pfm_edge_runtime.errors import (
    BackendError,
    BackendUnavailableError,
    UnhealthyError,
    VariantError,
)
from pfm_edge_runtime.golden import GoldenVectors, read_golden, run_golden
from pfm_edge_runtime.manifest import Variant
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.variants import VariantGraph, load_variant, suitable_variants

__all__ = ["check_health"]

_BATCHES = (1,)  # of images: one is enough to know the graph, and a device has little time
_TAKE = "the publisher must issue another bundle, or this device needs another package"


def check_health(files: PackageFiles, bundle: VerifiedBundle, *, backend: str) -> None:
    """Check that a bundle would work in a package on this device.

    Args:
        files: The package.
        bundle: The bundle, without what this device has forgotten.
        backend: What runs the graph.

    Raises:
        UnhealthyError: It would not.
        BackendUnavailableError: The library behind the backend is not installed.
        PackageError: The package's own files are damaged.
    """
    load = load_backend(backend)
    try:
        variants = suitable_variants(files, classes=len(bundle))
        golden = read_golden(files)
        graph = _first(files, variants, load)
        _run_golden(golden, graph)
        if len(bundle):
            _run_bundle(golden, graph, bundle)
    except BackendUnavailableError:
        raise
    except VariantError as error:
        raise UnhealthyError(f"{error}; {_TAKE}") from error
    except BackendError as error:
        raise UnhealthyError(f"the graph did not run: {error}", may_pass=True) from error


def _first(
    files: PackageFiles, variants: tuple[Variant, ...], load: BackendFactory
) -> VariantGraph:
    """Load the first graph that this machine runs, as a classifier would."""
    refused: BackendError | None = None
    for variant in variants:
        try:
            # A number of our own, for ONNX Runtime would pin its threads, which a unit may forbid.
            return load_variant(files, variant, load, threads=os.cpu_count())
        except BackendError as error:  # noqa: PERF203 (a handful)
            if isinstance(error, BackendUnavailableError):
                raise
            refused = refused or error
    raise refused or BackendError("the package has no graph")


def _run_golden(golden: GoldenVectors, graph: VariantGraph) -> None:
    tolerance = TOLERANCES[graph.variant.precision]
    row = farthest(run_golden(golden, graph, _BATCHES), tolerance)
    if not row.difference.within(tolerance):
        raise UnhealthyError(
            f"{graph.describe()} does not compute its golden vectors: for {row.point} "
            f"{row.difference.against(tolerance)}; {_TAKE}"
        )


def _run_bundle(golden: GoldenVectors, graph: VariantGraph, bundle: VerifiedBundle) -> None:
    arranged = graph.layout.arrange(bundle.tensors)
    try:
        outputs = graph.run_arranged(golden.images[:1], arranged, len(bundle))
    finally:
        wipe(arranged)
    if not (np.isfinite(outputs.logits).all() and np.isfinite(outputs.embedding).all()):
        raise UnhealthyError(
            f"{graph.describe()} gives values that are not finite with this bundle; {_TAKE}"
        )
