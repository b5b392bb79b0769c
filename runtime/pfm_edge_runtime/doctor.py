"""The doctor: everything that can be verified on a device, and how to mend what is wrong.

Owns the checks of a package on this device; those of the state are ``state``'s. To examine a
package is to open it, so what a power cut left of a forget is finished on the way::

    checks = [*examine_state(directory, require_state=True), *examine_model(model, state)]
    [check.fix for check in checks if check.status == "problem"]
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from pfm_edge_runtime._phrases import class_count, first_of
from pfm_edge_runtime.artefacts import (
    TargetRecord,
    artefacts_in,
    lost_engines,
    unlisted_files,
    verify_artefact,
)
from pfm_edge_runtime.digest import file_digest
from pfm_edge_runtime.erasure import leftovers
from pfm_edge_runtime.errors import PfmEdgeError, StateError
from pfm_edge_runtime.opening import OpenModel, open_model
from pfm_edge_runtime.package import ModelPackage, PackageFiles
from pfm_edge_runtime.state import (
    Check,
    DeviceState,
    disk_check,
    examine_rest,
    examine_state,
    mend_state,
)

__all__ = [
    "Check",
    "examine_model",
    "examine_rest",
    "examine_state",
    "mend_state",
    "open_for_examination",
    "package_bytes",
]

_COPY_AGAIN = "copy the package again from where it was exported"


def open_for_examination(directory: Path) -> DeviceState | None:
    """Open a state if there is one and it can be opened; :func:`examine_state` says why not."""
    try:
        return DeviceState.open(directory)
    except StateError:
        return None


def examine_model(
    directory: Path,
    state: DeviceState | None,
    *,
    require_state: bool = False,
    report: Callable[[int], None] = lambda _: None,
) -> Iterator[Check]:
    """Look at a package: files, engines, its bundle as this device sees it, and what waits there.

    Args:
        directory: The package.
        state: The device's memory; without one, nothing is asked of it, and none is made.
        require_state: As for ``opening.open_model``.
        report: Is told how many bytes more were verified.
    """
    try:
        files = PackageFiles.open(directory, verify_files=False)
    except PfmEdgeError as error:
        yield Check("manifest", "problem", str(error))
        return
    yield Check("manifest", "ok", f"model {files.manifest.model_id[:19]}…")
    yield from _files(files, report)
    yield from _artefacts(files, report)
    yield from _unlisted(files)
    yield from _bundle(files, state, require_state=require_state)
    yield disk_check("disk", files.bundle_path)


def package_bytes(directory: Path) -> int:
    """Return how many bytes :func:`examine_model` will report, as far as that can be told."""
    try:
        files = PackageFiles.open(directory, verify_files=False)
        listed = [files.directory / name for name in files.manifest.files]
        for each in artefacts_in(directory):
            listed += [each / name for name in TargetRecord.read(each).files]
        return sum(each.stat().st_size for each in listed)
    except (OSError, PfmEdgeError):
        return 0


def _files(files: PackageFiles, report: Callable[[int], None]) -> Iterator[Check]:
    wrong = 0
    for name, expected in files.manifest.files.items():
        path = files.directory / name
        try:
            found = file_digest(path, report)
        except OSError as error:
            finding = f"{path} cannot be read: {error.strerror or error}"
        else:
            if found == expected:
                continue
            finding = f"{path} is not the file that manifest.json lists"
        wrong += 1
        yield Check("files", "problem", finding, _COPY_AGAIN)
    if not wrong:
        yield Check("files", "ok", f"{len(files.manifest.files)} as manifest.json lists them")


def _artefacts(files: PackageFiles, report: Callable[[int], None]) -> Iterator[Check]:
    """Look at what was made of the package and lies in it; the classifier uses none of that."""
    for each in artefacts_in(files.directory):
        yield _artefact(each, files, report)


def _unlisted(files: PackageFiles) -> Iterator[Check]:
    """Look at what lies in the package and is none of it."""
    try:
        found = unlisted_files(files)
    except PfmEdgeError as error:
        yield Check("unlisted", "problem", str(error))
        return
    for lost in lost_engines(files, found):
        yield Check("artefact", "problem", lost)
    if found:
        yield Check("unlisted", "note", f"no part of the package: {first_of(found)}")


def _artefact(directory: Path, files: PackageFiles, report: Callable[[int], None]) -> Check:
    try:
        found = verify_artefact(directory, package=files, report=report)
    except PfmEdgeError as error:
        return Check("artefact", "problem", str(error))
    return Check("artefact", "note", f"{directory}: {found.summary()}")


def _bundle(
    files: PackageFiles, state: DeviceState | None, *, require_state: bool
) -> Iterator[Check]:
    if state is None:
        yield _unasked(files.directory)
        return
    try:
        model = open_model(
            files.directory, state=state, require_state=require_state, verify_files=False
        )
    except PfmEdgeError as error:
        yield Check("bundle", "problem", str(error))
        return
    yield Check("bundle", "ok", _facts(model))
    if model.problem is not None:
        yield Check("erasure", "problem", f"forgotten, not yet erased: {model.problem}")
    for each in leftovers(files.bundle_path):
        yield Check("erasure", "problem", f"{each} is still there", "pfm-device doctor, once more")


def _unasked(directory: Path) -> Check:
    """Say what can be said without a memory: the bundle's form, and that it is for this package."""
    try:
        bundle = ModelPackage.open(directory, verify_files=False).bundle
    except PfmEdgeError as error:
        return Check("bundle", "problem", str(error))
    found = f"well formed, {class_count(len(bundle))}; no memory says whether to trust it"
    return Check("bundle", "note", found)


def _facts(model: OpenModel) -> str:
    bundle = model.bundle
    signed = f"signed by {len(bundle.signers)}" if bundle.signers else "signed by nobody"
    place = f"place {bundle.place.epoch}.{bundle.place.sequence}"
    return f"{class_count(len(bundle.class_ids))}, {place}, {signed}; all eleven steps"
