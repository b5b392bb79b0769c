"""Opening a package on a device: verified against the device's memory, and put in order.

Owns where package and memory meet. Whatever a crash, a restored backup or a replaced directory
left, an open ends with a bundle that this device may use, and with the disk and the ledger saying
the same::

    model = open_model(Path("model"))
    model.bundle.labels                  # nothing that was ever forgotten on this device

The order of every step, and why a power cut between any two of them is harmless, is in
``docs/bundle-format.md`` (verification) and ``pfm_edge_runtime.forgetting`` (forgetting).
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pfm_edge_runtime._disk import mapped_errors, sync
from pfm_edge_runtime.bundle import Expectation, VerifiedBundle
from pfm_edge_runtime.erasure import erase_dying, finish, leftovers, swap
from pfm_edge_runtime.errors import (
    BundleError,
    PackageError,
    StateError,
    StateMissingError,
    StorageError,
    VerificationError,
)
from pfm_edge_runtime.package import BundleFile, PackageFiles
from pfm_edge_runtime.recording import finish_and_record, record_install
from pfm_edge_runtime.state import DeviceState, default_state_directory
from pfm_edge_runtime.store import confirm, exclusive

__all__ = [
    "OpenModel",
    "holding",
    "install_bundle",
    "open_model",
    "open_state",
    "read_verified",
    "settle",
    "verify_bundle",
]

_LOG = logging.getLogger("pfm_edge_runtime")
_SIGNATURES = 3  # the step of the verification that asks who signed
_PLACE = 5  # and the one that asks what came before
_ATTEMPTS = 3  # of a read that another process's forget overtakes


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A package that this device may use.

    Attributes:
        files: Everything but the bundle.
        bundle: The classes known now.
        bundle_bytes: Size of the bundle's file, in bytes.
        state: The device's memory.
        problem: Why a forgotten class is not erased yet; ``None`` if nothing waits.
        require_state: Whether it was opened so that nobody is trusted on first use.
    """

    files: PackageFiles
    bundle: VerifiedBundle
    bundle_bytes: int
    state: DeviceState
    problem: StorageError | None = None
    require_state: bool = False


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is on the disk, and what the device thinks of it."""

    file: BundleFile
    bundle: VerifiedBundle

    def is_settled(self, device: DeviceState) -> bool:
        """Tell whether disk and ledger say the same, and nothing waits to be erased."""
        statement, memory = self.bundle.place.statement, device.memory
        return (
            statement in memory.absences
            and not self.bundle.purged
            and not memory.pending.get(statement)
            and not leftovers(self.file.path)
        )


def open_model(
    directory: str | Path,
    *,
    state: DeviceState | str | Path | None = None,
    require_state: bool = False,
    verify_files: bool = True,
) -> OpenModel:
    """Open a package: verify it, record it if it is new, and finish what a crash left.

    Nothing is locked or written when there is nothing to do.

    Args:
        directory: The package.
        state: The device's memory, or where it is; ``None`` is ``default_state_directory()``.
        require_state: Whether to refuse rather than to trust on first use.
        verify_files: As for ``PackageFiles.open``.

    Raises:
        PackageError: A file is missing, unreadable or altered; also ManifestError.
        BundleError: The bundle is not one that this device may use.
        StateError: The device's memory is damaged, another device's, or missing where required.
        StorageError: The disk refused what must be recorded before the bundle may be used.
    """
    files = PackageFiles.open(directory, verify_files=verify_files)
    device = open_state(state, require_state=require_state)
    reading = read_verified(files, device, require_state=require_state)
    if reading.is_settled(device):
        size = len(reading.file.data)
        return OpenModel(files, reading.bundle, size, device, None, require_state)
    try:
        with holding(files, device):
            return settle(files, device, require_state=require_state)
    except StorageError as error:
        if reading.bundle.place.statement not in device.memory.absences:
            raise
        _LOG.warning("%s: forgotten, not yet erased: %s", files.directory, error)
        size = len(reading.file.data)
        return OpenModel(files, reading.bundle, size, device, error, require_state)


def open_state(state: DeviceState | str | Path | None, *, require_state: bool) -> DeviceState:
    """Open the device's memory; make one that trusts on first use if there is none.

    Raises:
        StateMissingError: There is none, and ``require_state`` forbids to make it.
        StateError: It is damaged, or another device's.
        StorageError: It cannot be made.
    """
    if isinstance(state, DeviceState):
        return state
    directory = default_state_directory() if state is None else Path(state)
    try:
        return DeviceState.open(directory)
    except StateMissingError:
        if require_state:
            raise
    return DeviceState.create(directory, trust=None, bind=False)


@contextmanager
def holding(files: PackageFiles, device: DeviceState) -> Iterator[None]:
    """Hold the device's memory and the package against every other process.

    Raises:
        StorageError: One of them cannot be locked.
    """
    with ExitStack() as held:
        held.enter_context(device.exclusive())
        held.enter_context(exclusive(files.directory))
        yield


def read_verified(
    files: PackageFiles, device: DeviceState, *, require_state: bool = False
) -> _Reading:
    """Read the bundle and verify it against the device's memory as it is now.

    The file first, the memory after it: a forget is in the ledger before it is in the file, so a
    class that the file lacks is one that the memory knows of. A reader that another process
    overtakes reads once more.

    Raises:
        PackageError: The file is missing or unreadable.
        BundleError: The bundle is not one that this device may use.
        StateError: Nobody has said whom to trust, and ``require_state`` forbids to guess.
    """
    for attempt in range(_ATTEMPTS):
        file = files.read_bundle()
        device.refresh()
        try:
            return _Reading(file, _verified(files, device, file.data, require_state=require_state))
        except BundleError as error:
            if attempt + 1 < _ATTEMPTS and (file.was_replaced() or device.moved()):
                continue
            raise type(error)(f"{file.path}: {error}", step=error.step) from error
    raise AssertionError("the last attempt returns or raises")


def settle(files: PackageFiles, device: DeviceState, *, require_state: bool = False) -> OpenModel:
    """Let disk and ledger say the same; hold both (:func:`holding`) for it.

    Raises:
        BundleError: The bundle is not one that this device may use.
        StorageError: A new bundle cannot be recorded. What cannot be erased is no error here:
            the class is refused from memory, and the erasure is tried again at the next open.
    """
    reading = read_verified(files, device, require_state=require_state)
    if reading.bundle.place.statement not in device.memory.absences:
        _require_epoch(reading.bundle, device, files.bundle_path)
        # What step 10 took out is still in the file: a tombstone of its own follows.
        absent = reading.bundle.absent - {digest for _, digest in reading.bundle.purged}
        # Whoever put the file there may have been killed before it was on the disk: the old one
        # would come back in a power cut, below its own floor.
        confirm(files.bundle_path)
        record_install(device, reading.bundle, files.directory, absent=absent)
    problem, size = None, len(reading.file.data)
    try:
        size = finish_and_record(device, files.bundle_path, reading.bundle, reading.file.data)
    except StorageError as error:
        problem = error
        _LOG.warning("%s: forgotten, not yet erased: %s", files.directory, error)
    return OpenModel(files, reading.bundle, size, device, problem, require_state)


def verify_bundle(
    files: PackageFiles, device: DeviceState, data: bytes, *, require_state: bool = False
) -> VerifiedBundle:
    """Verify a bundle that is not in its place yet, against all that the device knows now.

    Raises:
        BundleError: The bundle is not one that this device may use.
        StateError: As for :func:`open_model`.
    """
    device.refresh()
    expectation = _expectation(files, device, require_state=require_state)
    return VerifiedBundle.from_bytes(data, expectation)


def install_bundle(
    directory: str | Path,
    data: bytes,
    *,
    state: DeviceState | str | Path | None = None,
    require_state: bool = False,
    check: Callable[[VerifiedBundle], None] = lambda _: None,
) -> OpenModel:
    """Put another bundle in the place of a package's, durably, and erase the old one.

    It is verified first, against all that the device knows by then: what lies there may be newer
    than anything it has recorded. What is written lacks every class that this device has forgotten.
    The file comes before its record: a crash in between leaves a bundle that the next open
    records; the other way round it would leave one that is below its own floor.

    Args:
        directory: The package.
        data: The new bundle.
        state: As for :func:`open_model`.
        require_state: As for :func:`open_model`.
        check: Looks at the new bundle once it is verified; if it raises, the old one is as it was.

    Raises:
        BundleError: The bundle is not one that this device may use; the old one is as it was.
        StorageError: The disk refused, and the old bundle is as it was; or, where it refused to
            undo that, the new one is in place, and the next open records it and erases the old.
        PackageError: The package is damaged; also ManifestError.
        StateError: As for :func:`open_model`.
    """
    files = PackageFiles.open(directory)
    device = open_state(state, require_state=require_state)
    path = files.bundle_path
    with holding(files, device):
        with suppress(BundleError, PackageError):  # of a bundle that is damaged or gone
            settle(files, device, require_state=require_state)
        expectation = _expectation(files, device, require_state=require_state)
        bundle = VerifiedBundle.from_bytes(data, expectation)
        _require_epoch(bundle, device, path)
        check(bundle)
        finish(path)
        dying = swap(path, bundle.to_bytes())
        if bundle.place.statement not in device.memory.absences:
            with _put_back_unless_recorded(path, dying, device, bundle):
                record_install(device, bundle, files.directory, absent=bundle.absent)
        erase_dying(path, dying)
        return settle(files, device, require_state=require_state)


@contextmanager
def _put_back_unless_recorded(
    path: Path, dying: Path | None, device: DeviceState, bundle: VerifiedBundle
) -> Iterator[None]:
    """Put the old bundle back if the new one cannot be recorded.

    A device whose memory has no room would serve nothing at all: what is not recorded is not used,
    and the old one would be gone. Where the disk does not say whether it has the record, the new
    one stays: the old one may be below its own floor.
    """
    try:
        yield
    except StorageError:
        recorded = bundle.place.statement in device.memory.absences
        if dying is not None and not recorded:
            with mapped_errors(path):
                os.replace(dying, path)  # noqa: PTH105 (the fault tests count it)
                sync(path.parent)
        raise


def _verified(
    files: PackageFiles, device: DeviceState, data: memoryview, *, require_state: bool
) -> VerifiedBundle:
    """Verify what lies in its place; a rotation of keys alone does not take it out of use.

    The keys that a repository names may change before the first bundle under the new ones is here.
    Until then the device goes on with the very bundle that it installed last for the model: the
    ledger has its statement's digest, which was verified under the keys of that time.
    """
    expectation = _expectation(files, device, require_state=require_state)
    try:
        return VerifiedBundle.from_bytes(data, expectation)
    except VerificationError as error:
        floor = expectation.floor
        if error.step != _SIGNATURES or floor is None or not device.keeps_installed:
            raise
        bundle = VerifiedBundle.from_bytes(data, replace(expectation, trust=None))
        if bundle.place != floor:
            bundle.wipe()
            raise
        return bundle


def _expectation(files: PackageFiles, device: DeviceState, *, require_state: bool) -> Expectation:
    memory, model_id = device.memory, files.manifest.model_id
    trust = memory.trust_for(model_id, device.trust)
    if require_state and (trust is None or not trust.keys):
        raise StateError(
            f"{device.directory} does not say whom to trust for {files.directory}: "
            "pfm-device init --replace-trust --key ISSUER.pub"
        )
    return Expectation(
        binding=files.binding,
        trust=trust,
        floor=memory.floors.get(model_id),
        tombstones=memory.tombstones.keys(),
        absences=memory.absences,
    )


def _require_epoch(bundle: VerifiedBundle, device: DeviceState, path: Path) -> None:
    """Refuse a new bundle whose epoch is above what the device's repository has come to.

    An epoch is the version of the repository's root. A stolen bundle key could otherwise put a
    bundle into a package, over the air or by hand, that no later rotation overtakes.
    """
    repository = device.repository()
    if repository is not None and bundle.place.epoch > repository.root_version:
        raise VerificationError(
            f"{path}: step {_PLACE}: it states epoch {bundle.place.epoch}, and the "
            f"root that this device trusts is version {repository.root_version}: run pfm-device "
            "update, or have the bundle issued again",
            step=_PLACE,
        )
