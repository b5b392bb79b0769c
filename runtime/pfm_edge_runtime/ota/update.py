"""The update of a model over the air: a state machine that ends well whatever happens to it.

Owns the order of the states::

    report = update_model("model/", open_source("https://updates.example/public"))

1. ``refresh``: the repository's metadata is brought up to date, and verified.
2. ``trust``: newest root, keys and versions go into the device's memory.
3. ``forget``: the forget list is obeyed. **Always, and before anything else is looked at**: where
   1 or 2 fail, it is taken from its fixed name, because its own signatures are enough.
4. ``channel``: which release this device shall have; it may have it already.
5. ``fetch``: the bundle, into memory.
6. ``verify``: all eleven steps; what was ever forgotten here is taken out.
7. ``health``: would it work on this device?
8. ``commit``: the purged bundle takes the old one's place, durably, then the ledger says so.
9. ``report``: receipts leave the outbox.

Nothing but 3 and 8 changes what the model knows, and each of those is whole or not done. After a
power cut at any point the next update converges to what is published. A running model follows by
itself. No failure takes the old bundle out of use.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pfm_edge_runtime.bundle import VerifiedBundle
from pfm_edge_runtime.errors import (
    BundleError,
    ErasurePendingError,
    ForgetListError,
    PackageError,
    PfmEdgeError,
    RepositoryError,
    StateError,
    StorageError,
    UnhealthyError,
    UpdateError,
)
from pfm_edge_runtime.opening import install_bundle, open_model, verify_bundle
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.ota._directory import read_whole
from pfm_edge_runtime.ota._forget_lists import ForgetLists
from pfm_edge_runtime.ota._health import check_health
from pfm_edge_runtime.ota._outbox import Outbox
from pfm_edge_runtime.ota._receivers import open_receiver
from pfm_edge_runtime.ota._rejected import Rejected
from pfm_edge_runtime.ota._releases import choose, find_bundle, read_channel, require_place
from pfm_edge_runtime.ota._repository import (
    EPOCH_BEGIN,
    Repository,
    format_time,
)
from pfm_edge_runtime.ota._transport import Meter, Transport
from pfm_edge_runtime.ota.channel import Release
from pfm_edge_runtime.ota.forget_list import MAX_FORGET_LIST_BYTES
from pfm_edge_runtime.ota.names import FORGET_FILE
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.report import UpdateReport
from pfm_edge_runtime.ota.root import known_repository
from pfm_edge_runtime.ota.source import Source
from pfm_edge_runtime.ota.stopping import StoppedError
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.state import DeviceState, RepositoryTrust, default_state_directory

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

__all__ = ["update_model"]

_MOST_BUNDLE_BYTES = 2**30  # step 1 of a bundle's verification has the same limit
_STOPPABLE = {"refresh", "channel", "fetch", "verify", "health", "commit"}


def update_model(
    directory: str | Path,
    source: Source,
    *,
    state: DeviceState | str | Path | None = None,
    options: UpdateOptions | None = None,
) -> UpdateReport:
    """Bring a model up to date, and obey the forget list; nothing is raised for what fails.

    Args:
        directory: The model package.
        source: Where the update comes from.
        state: The device's memory, or where it is; ``None`` is ``default_state_directory()``.
        options: How it is to be made.

    Returns:
        What it came to; ``error`` says what failed, ``forgotten`` what was obeyed before that.
    """
    update = _Update(Path(directory), source, options or UpdateOptions())
    with update.catching():
        update.run(_device(state))
    return update.report()


class _Update:
    """One update; its methods are the states."""

    def __init__(self, directory: Path, source: Source, options: UpdateOptions) -> None:
        self._directory = directory
        self._source = source
        self._options = options
        self._meter = Meter(options.max_bytes)
        self._outcome = "failed"
        self._error: PfmEdgeError | None = None
        self._lists = ForgetLists(directory, str(source), require_state=options.require_state)
        self._receipts = (0, 0)
        self._device: DeviceState
        self._known: RepositoryTrust
        self._cache: Cache
        self._files: PackageFiles | None = None

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Keep the first error for the report."""
        try:
            yield
        except PfmEdgeError as error:
            self._error = self._error or error
        except OSError as error:  # a call that nobody expects to fail
            reason = f"the disk refused, the next update goes on: {error.strerror or error}"
            self._error = self._error or StorageError(reason)

    def run(self, device: DeviceState) -> None:
        """Go through the states."""
        known_repository(device)  # before anything is made there
        self._device = device
        self._cache = Cache(device.updates_directory)
        wait = self._options.timeout
        with self._cache.alone(timeout=wait, sleep=self._options.pause):
            # Read once more: an update that was waited for may have raised what it says.
            self._known = known_repository(device)
            with self.catching():
                self._update()
            with self.catching(), self._state("report"):
                self._report()

    def report(self) -> UpdateReport:
        """Return what it came to."""
        model_id = None if self._files is None else self._files.manifest.model_id
        floor = None if model_id is None else self._device.memory.floors.get(model_id)
        error, forgotten = self._error, self._lists.obeyed
        stopped = isinstance(error, StoppedError) and self._outcome == "failed"
        if error is None and forgotten is not None and forgotten.problem is not None:
            error = ErasurePendingError(
                f"{forgotten.applied} forgotten, not yet erased: {forgotten.problem}"
            )
        return UpdateReport(
            outcome="stopped" if stopped else self._outcome,
            model_id=model_id,
            place=floor,
            forgotten=forgotten,
            sent=self._receipts[0],
            waiting=self._receipts[1],
            bytes=self._meter.total,
            requests=self._meter.requests,
            error=error,
        )

    def _update(self) -> None:
        unreadable: PackageError | None = None
        try:
            self._files = PackageFiles.open(self._directory, verify_files=False)
        except PackageError as error:
            unreadable = error  # the forget list holds all the same
        if self._source.forget_list is not None:
            with self._state("forget"):
                self._forget_file(self._source.forget_list)
            return
        with self._source.transport(self._options, self._meter) as transport, ExitStack() as held:
            repository = self._refreshed(transport, held)
            if self._files is None:
                raise unreadable or PackageError(f"{self._directory} cannot be read")
            try:
                self._follow(repository, self._files)
            except RepositoryError:  # the publisher's state is odd: what it orders holds
                with self._state("forget"):
                    self._forget_anyhow(transport)
                raise

    def _refreshed(self, transport: Transport, held: ExitStack) -> Repository:
        """Go through the first three states; the third at any rate."""
        try:
            local = self._options.clock() if transport.is_fresh else EPOCH_BEGIN
            made = Repository.open(transport, self._known, self._cache, local=local)
            repository = held.enter_context(made)
            with self._state("refresh"):
                repository.refresh()
            with self._state("trust"):
                self._trust(repository)
            with self._state("forget"):
                listed = self._forget(repository)
                if not listed or repository.repeats:
                    self._forget_anyhow(transport)
        except PfmEdgeError:
            with self._state("forget"):
                self._forget_anyhow(transport)
            raise
        return repository

    def _trust(self, repository: Repository) -> None:
        """Take over what was verified: into the device's memory, and into the cache."""
        self._remember(repository)
        keys = repository.bundle_keys
        # Asked of both: a power cut may come after the file and before the record that lets
        # running models know of it.
        if keys != self._device.trust or keys != self._known.bundles:
            DeviceState.replace_trust(self._device.directory, keys, keep_installed=True)
            self._device.refresh()
        repository.known = replace(repository.known, bundles=keys)
        self._remember(repository)
        repository.keep()

    def _remember(self, repository: Repository) -> None:
        if repository.known == self._known:
            return
        with self._device.exclusive():
            if self._device.repository() != self._known:
                raise StateError(
                    f"{self._device.directory} was told of another root or cohort meanwhile: "
                    "update again"
                )
            self._device.know_repository(repository.known)
        self._known = repository.known

    def _forget(self, repository: Repository) -> bool:
        """Obey the forget list that the metadata lists; tell whether it lists one."""
        found = repository.find(FORGET_FILE)
        if found is None:
            return False
        text = self._cache.read_known(FORGET_FILE, found.hashes["sha256"], MAX_FORGET_LIST_BYTES)
        if text is None:
            text = repository.read(found, most=MAX_FORGET_LIST_BYTES)
        listed = self._lists.obey(self._device, text, repository.known.forget)
        self._cache.keep(FORGET_FILE, text)
        repository.after(listed.issued_at)
        self._remember(repository)
        repository.keep()
        return True

    def _forget_anyhow(self, transport: Transport) -> None:
        """Obey the forget list at its fixed name, if it can be had."""
        keys = self._known.forget
        with suppress(PfmEdgeError):  # the first way's error is the one to tell
            if keys is None:
                # A device that is new: only the repository says who signs the list, however old.
                with Repository.open(
                    transport, self._known, self._cache, local=EPOCH_BEGIN
                ) as repository:
                    repository.refresh()
                    keys = repository.known.forget
            self._lists.obey_plain(self._device, transport, keys)

    def _forget_file(self, path: Path) -> None:
        """Obey a forget list that came alone."""
        if self._known.forget is None:
            raise ForgetListError(
                f"{path}: this device does not know who signs forget lists: update it from its "
                "repository once"
            )
        self._lists.obey(self._device, read_whole(path, MAX_FORGET_LIST_BYTES), self._known.forget)
        if self._files is not None:
            self._is_sound(self._files)
        self._outcome = "forget-list"

    def _follow(self, repository: Repository, files: PackageFiles) -> None:
        """Take the release that this device shall have, unless it has it."""
        with self._state("channel"):
            choice = self._choose(repository, files)
        if choice is None:
            return
        release, target = choice
        with self._state("fetch"):
            data = repository.read(target, most=_MOST_BUNDLE_BYTES)
        try:
            with self._state("verify"):
                bundle = self._verify(files, data, release)
            with self._state("health"):
                check_health(files, bundle, backend=self._options.backend)
            bundle.wipe()
        except (BundleError, UnhealthyError) as error:
            rejected = Rejected(self._cache, files, self._device)
            left = rejected.add(target.hashes["sha256"], may_pass=error.may_pass)
            if left:
                tries = f"{self._source}: {release.target}: {error}; tries left: {left}"
                raise UnhealthyError(tries, may_pass=True) from error
            self._outcome = "rejected"
            raise UpdateError(f"{self._source}: {release.target}: {error}") from error
        with self._state("commit"):
            self._commit(repository, data, release)

    def _choose(
        self, repository: Repository, files: PackageFiles
    ) -> "tuple[Release, TargetFile] | None":
        """Return the release to take; ``None`` if there is nothing to do: the outcome says why."""
        repository.require_fresh()
        model_id = files.manifest.model_id
        channel = read_channel(repository, model_id, self._cache)
        self._remember(repository)
        repository.keep()
        sound = self._is_sound(files)
        outcome, release = choose(
            channel,
            device=self._device.device,
            cohort=self._options.cohort or self._known.cohort,
            now=format_time(max(self._options.clock(), repository.reference)),
            floor=self._device.memory.floors.get(model_id),
            sound=sound,
        )
        if release is None:
            self._outcome = outcome
            return None
        target = find_bundle(repository, release)
        if target.hashes["sha256"] in Rejected(self._cache, files, self._device):
            self._outcome = "rejected"
            raise UpdateError(
                f"{self._source}: {release.target} was rejected by this device before: the "
                "publisher must issue another bundle"
            )
        return release, target

    def _verify(self, files: PackageFiles, data: bytes, release: Release) -> VerifiedBundle:
        """Verify a bundle as a device does that opens it, and that it is what the channel says."""
        bundle = verify_bundle(files, self._device, data, require_state=self._options.require_state)
        require_place(bundle, release)
        return bundle

    def _commit(self, repository: Repository, data: bytes, release: Release) -> None:
        """Put the bundle in its place; what it says about the time counts from then on."""
        opened = install_bundle(
            self._directory,
            data,
            state=self._device,
            require_state=self._options.require_state,
            check=lambda bundle: require_place(bundle, release),
        )
        self._outcome = "updated"
        issued_at, problem = opened.bundle.statement.issued_at, opened.problem
        opened.bundle.wipe()
        repository.after(issued_at)
        self._remember(repository)
        if self._device.memory.unseen:
            # There was no bundle to look at when the list came; now there is one to state it of.
            self._lists.obey_again(self._device)
        if problem is not None:
            raise ErasurePendingError(f"installed, and an old bundle is not yet erased: {problem}")

    def _is_sound(self, files: PackageFiles) -> bool:
        """Tell whether this device may use the bundle that is there; finish what a crash left."""
        try:
            opened = open_model(
                files.directory,
                state=self._device,
                require_state=self._options.require_state,
                verify_files=False,
            )
        except (BundleError, PackageError):
            return False
        opened.bundle.wipe()
        return True

    def _report(self) -> None:
        """Put receipts into the outbox, and send them where they should go."""
        outbox, place = Outbox(self._cache, self._device), self._options.receipts
        try:
            outbox.fill()
            if place is not None:  # that it is there is looked at each time, before it is needed
                device = self._device.device
                with open_receiver(place, device, self._options, self._meter) as send:
                    outbox.deliver(send)
        finally:
            self._receipts = (outbox.delivered, outbox.waiting)

    @contextmanager
    def _state(self, name: str) -> Iterator[None]:
        if name in _STOPPABLE:
            self._options.stopping.require_going()
        self._options.observer(f"enter:{name}")
        yield
        self._options.observer(f"leave:{name}")


def _device(state: DeviceState | str | Path | None) -> DeviceState:
    if isinstance(state, DeviceState):
        return state
    return DeviceState.open(default_state_directory() if state is None else state)
