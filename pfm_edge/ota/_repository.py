"""A publisher's repository: made once, opened by every command, changed by one step at a time.

Owns the directory as a whole: its lock, what a crash left, and the one way in which a change
becomes public::

    repository = PublisherRepository.open(Path("REPO"))
    with repository.work(signers) as work:
        work.current.channels
        outcome = work.settle(change)
    outcome.committed, outcome.missing
"""

# ruff: noqa: PTH103 (system calls by name: the fault tests count them)

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key

from pfm_edge.ota._change import Change, advance, authority_of, signed_at
from pfm_edge.ota._commit import finish
from pfm_edge.ota._current import Current
from pfm_edge.ota._description import describe
from pfm_edge.ota._issue import channels_of, releases_of
from pfm_edge.ota._journal import decide, is_change, load, store, update
from pfm_edge.ota._keys import Ask, RoleKey, Signers
from pfm_edge.ota._layout import Layout
from pfm_edge.ota._mark import Mark, mark_path, raise_mark, read_mark
from pfm_edge.ota._metadata import Authority, Missing
from pfm_edge.ota._roles import Role
from pfm_edge.ota._served import remove_strangers
from pfm_edge.ota._settings import Settings
from pfm_edge.ota._standing import late_clock, older_copy, wrong_clock
from pfm_edge.registry import read_registry
from pfm_edge_runtime._disk import mapped_errors
from pfm_edge_runtime.bundle import Bundle, ClassId
from pfm_edge_runtime.errors import RepositoryError, UpdateError
from pfm_edge_runtime.ota.channel import Channel
from pfm_edge_runtime.store import exclusive

__all__ = ["Clock", "Outcome", "PublisherRepository", "Work", "require_new", "utc_now"]

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time, UTC to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def require_new(directory: Path) -> None:
    """Require that a repository may be made in a directory.

    Raises:
        RepositoryError: There is one already, or something else.
    """
    layout = Layout(directory)
    if not directory.is_dir():
        if directory.exists():
            raise RepositoryError(f"{directory} is a file: name a directory")
        return
    found = {each.name for each in directory.iterdir() if not each.name.endswith(".tmp")}
    if layout.settings.name in found and len(found) > 1:
        raise RepositoryError(f"{directory}: it is a repository already")
    if found - {layout.settings.name}:
        raise RepositoryError(f"{directory} is not empty: name another directory")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change.

    Attributes:
        committed: Whether it is published; else it waits in `pending/` for signatures.
        notes: What it does, one line each.
        roles: The roles that have new metadata by it.
        missing: The signatures that it waits for.
        unavailable: Why a key that could sign is not at hand, by key id.
    """

    committed: bool
    notes: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    missing: tuple[Missing, ...] = ()
    unavailable: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        missing = [
            {"role": m.role.value, "what": m.what, "count": m.count, "key_ids": [*m.key_ids]}
            for m in self.missing
        ]
        return {"committed": self.committed, "notes": [*self.notes], "missing": missing}


@dataclass(frozen=True, slots=True)
class Work:
    """A repository while one process holds it.

    Attributes:
        repository: The repository.
        settings: What it was made with.
        current: What is in force.
        signers: The keys at hand.
        mark: How far the repository had come.
    """

    repository: "PublisherRepository"
    settings: Settings
    current: Current
    signers: Signers
    mark: Mark = field(default_factory=Mark)

    @property
    def now(self) -> datetime:
        """The time, UTC to the second."""
        return self.repository.clock()

    def expires(self, role: Role) -> datetime:
        """Return until when metadata of a role holds that is made now."""
        return self.now + timedelta(days=self.settings.days[role])

    def authority(self, change: Change) -> Authority:
        """Return who may sign a change."""
        return authority_of(change, self.current)

    def require_published(self) -> None:
        """Require that there is something to change.

        Raises:
            RepositoryError: There is not.
        """
        if not self.current.metadata:
            raise RepositoryError(
                f"{self.repository.directory}: nothing was published yet: sign what waits with "
                "pfm-edge ota sign, or run ota init again"
            )

    def require_idle(self) -> None:
        """Require that no other change is under way.

        Raises:
            RepositoryError: One waits for signatures, or nothing was published yet.
        """
        if is_change(self.repository.layout.pending):
            raise RepositoryError(
                f"{self.repository.directory}: a change waits for signatures: pfm-edge ota sign "
                "adds them, pfm-edge ota abandon drops it"
            )
        self.require_published()

    def require_sound(self, *, any_clock: bool = False) -> None:
        """Require that the repository may go on from where it stands, and clear what may not.

        Args:
            any_clock: Whether it may go on where the clock was or is wrong.

        Raises:
            RepositoryError: It is an older copy, or something was signed later than now.
        """
        if not self.current.metadata:
            return
        reason = older_copy(self.current, self.mark)
        if not any_clock:
            reason = reason or wrong_clock(self.current, self.mark, self.now, self.settings.days)
        if reason:
            raise RepositoryError(f"{self.repository.directory}: {reason}")
        remove_strangers(self.current)

    def settle(self, change: Change) -> Outcome:
        """Sign a new change with the keys at hand, and publish it if that is enough.

        Raises:
            KeyFileError: A key that was named for this refuses to sign.
            UpdateError: It would issue a class that was forgotten.
            RepositoryError: Another copy of the repository signed more meanwhile.
            StorageError: The disk refused; before the change is decided nothing changed, and
                after that the next command goes on with it.
        """
        advanced, missing = self._advance(change)
        with self._issuable(advanced, "order it first with pfm-edge ota forget REPO --class ID"):
            signed = signed_at(advanced, change, self.settings.days)
            layout, complete = self.repository.layout, not missing
            store(layout, advanced, self.current, complete=complete, signed=signed)
        return self._finish(advanced, missing)

    def settle_pending(self, change: Change) -> Outcome:
        """Sign the change that waits, and publish it if that is enough.

        Raises:
            As :meth:`settle`.
        """
        advanced, missing = self._advance(change)
        with self._issuable(advanced, "drop the change with pfm-edge ota abandon REPO"):
            signed = signed_at(advanced, change, self.settings.days)
            update(self.repository.layout.pending, advanced, signed=signed)
            if not missing:
                decide(self.repository.layout, advanced, self.current)
        return self._finish(advanced, missing)

    @contextmanager
    def _issuable(self, change: Change, way_out: str) -> Iterator[None]:
        """Let nothing be decided that issues a class again which the registry has forgotten.

        The registry is held meanwhile: it forgets before, or when the change is decided. To hold a
        rollout gives nobody anything, and is never refused.
        """
        channels = [*channels_of(change.targets)]
        if not channels or (change.kind == "rollout" and all(map(_is_held, channels))):
            yield
            return
        registry = self.settings.registry
        read_registry(registry)
        with exclusive(registry.parent):
            held = self._held_again({*read_registry(registry).forgotten}, change)
            if held:
                raise UpdateError(f"{held}, which was forgotten here: {way_out}")
            yield

    def _held_again(self, forgotten: set[ClassId], change: Change) -> str:
        for channel in channels_of(change.targets):
            for each in releases_of(channel):
                data = change.targets.get(each.target)
                bundle = self.current.bundle(each) if data is None else Bundle.from_bytes(data)
                if held := sorted(forgotten.intersection(bundle.class_ids)):
                    return f"bundle {each.epoch}-{each.sequence} holds class {held[0]}"
        return ""

    def _advance(self, change: Change) -> tuple[Change, tuple[Missing, ...]]:
        return advance(change, self.current, self.signers, self.now, self.settings.days)

    def _finish(self, change: Change, missing: tuple[Missing, ...]) -> Outcome:
        if not missing and not finish(self.repository.layout, self.settings.registry):
            raise RepositoryError(
                f"{self.repository.directory}: another copy of it signed more meanwhile, and "
                "nothing of this is published: pfm-edge ota refresh REPO --restored"
            )
        notes = describe(change, self.current.metadata)
        if self.current.metadata:
            notes += late_clock(self.current, self.mark, self.now, self.settings.days)
        roles = tuple(each for each in Role if each in change.metadata)
        return Outcome(not missing, notes, roles, missing, dict(self.signers.reasons))


def _is_held(channel: Channel) -> bool:
    rollout = None if channel.candidate is None else channel.candidate.rollout
    return rollout is not None and rollout.held


@dataclass(frozen=True, slots=True)
class PublisherRepository:
    """A publisher's directory.

    Attributes:
        directory: The directory.
        clock: Tells the time, UTC to the second.
    """

    directory: Path
    clock: Clock = utc_now

    @classmethod
    def open(cls, directory: Path, *, clock: Clock = utc_now) -> "PublisherRepository":
        """Open a repository, and finish what a crash left undone.

        Raises:
            RepositoryError: There is none, or it is damaged.
            StorageError: The disk refused.
        """
        repository = cls(directory, clock)
        with repository.held():
            Current.read(repository.layout)
        return repository

    @classmethod
    def create(
        cls, directory: Path, settings: Settings, *, clock: Clock = utc_now
    ) -> "PublisherRepository":
        """Make the directory of a repository that publishes nothing yet.

        Raises:
            RepositoryError: There is one already.
            StorageError: Something else is there, or the disk refused.
        """
        require_new(directory)
        repository = cls(directory, clock)
        with mapped_errors(directory):
            os.makedirs(directory, exist_ok=True)
        with exclusive(directory):
            require_new(directory)  # nobody was quicker
            settings.write(repository.layout.settings)
        return repository

    @property
    def layout(self) -> Layout:
        """Where things lie in it."""
        return Layout(self.directory)

    @contextmanager
    def held(self) -> Iterator[Settings]:
        """Hold the repository against every other process, with nothing left undone in it.

        Raises:
            RepositoryError: It is none, or is damaged.
            StorageError: The disk refused.
        """
        Settings.read(self.layout.settings)
        with exclusive(self.directory):
            settings = Settings.read(self.layout.settings)
            finish(self.layout, settings.registry)
            yield settings

    @contextmanager
    def work(
        self,
        signers: Signers | None = None,
        *,
        pending: bool = False,
        sound: bool = True,
        any_clock: bool = False,
    ) -> Iterator[Work]:
        """Hold the repository for one change.

        Args:
            signers: The keys at hand; the remembered ones by default.
            pending: Whether a change may wait in it.
            sound: Whether it must be no older copy, and its clock be right.
            any_clock: As of :meth:`Work.require_sound`.

        Raises:
            RepositoryError: A change waits for signatures, or it is not sound.
        """
        with self.held() as settings:
            current = Current.read(self.layout)
            signers = signers or self._remembered(settings, current)
            work = Work(self, settings, current, signers, self.mark(settings, current))
            if not pending:
                work.require_idle()
            if sound:
                work.require_sound(any_clock=any_clock)
            yield work

    def mark(self, settings: Settings, current: Current) -> Mark:
        """Return how far the repository had come; where no mark is, it is made of what is in force.

        Raises:
            RepositoryError: It is damaged.
            StorageError: It cannot be written.
        """
        path = mark_path(self.layout, settings.registry)
        found = read_mark(path)
        if found is None:
            found = Mark.of(current.metadata, current.readable_small_targets())
            raise_mark(path, found)
        return found

    def signers(self, keys: Sequence[RoleKey] = (), *, ask: Ask | None = None) -> Signers:
        """Return the keys at hand: those named, and those that were when it was made.

        Args:
            keys: Named for this command.
            ask: Asks a person for the passphrase of a file.

        Raises:
            RepositoryError: It is no repository.
        """
        settings = Settings.read(self.layout.settings)
        return self._remembered(settings, Current.read(self.layout), keys, ask)

    def _remembered(
        self,
        settings: Settings,
        current: Current,
        keys: Sequence[RoleKey] = (),
        ask: Ask | None = None,
    ) -> Signers:
        known = [current.metadata]
        if self.layout.pending.exists():
            known.append({**current.metadata, **load(self.layout.pending).change.metadata})
        public: dict[str, Key] = {}
        for metadata in known:
            if Role.ROOT in metadata:
                authority = Authority(metadata[Role.ROOT], metadata[Role.TARGETS])
                public |= {k: v for role in Role for k, v in authority.keys(role)[1].items()}
        remembered = [
            RoleKey(public[key_id], source)
            for key_id, source in settings.signers.items()
            if key_id in public
        ]
        return Signers(keys, remembered=remembered, ask=ask)
