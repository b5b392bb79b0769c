"""The device's own memory: its ledger, its key and whom it trusts, in one directory.

Owns the one way to read and to change them. What the device remembers is :class:`Memory`, a value;
a change is a record that is on the disk before anybody acts on it::

    state = DeviceState.open(default_state_directory())
    with state.exclusive():
        state.append(TombstoneRecord(…, moment=state.moment()))
    class_id in state.memory.tombstones
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import StateError, StateMissingError, StorageError
from pfm_edge_runtime.keys import PublicKey, SigningKey
from pfm_edge_runtime.state._class_records import AbsentRecord, TombstoneRecord
from pfm_edge_runtime.state._clock import Clock, Moment, read_clock
from pfm_edge_runtime.state._creation import (
    create,
    new_key,
    read_key,
    read_repository,
    read_trust,
    write_repository,
    write_trust,
)
from pfm_edge_runtime.state._file import LedgerFile, UnsettledError
from pfm_edge_runtime.state._glance import Line, Lines, glance
from pfm_edge_runtime.state._layout import Layout, locked, refused
from pfm_edge_runtime.state._ledger import decode, encode_all
from pfm_edge_runtime.state._machine import machine_digest
from pfm_edge_runtime.state._memory import Memory
from pfm_edge_runtime.state._records import AdoptRecord, InitRecord, InstallRecord, Record
from pfm_edge_runtime.state._repository import RepositoryTrust
from pfm_edge_runtime.state._trust import ManagedTrust

__all__ = ["DeviceState"]

_ADOPT = "pfm-device init --adopt takes it over, under a new key"
# What is safe to believe while the disk does not say whether it holds it.
_UNSETTLED = {AbsentRecord.kind, InstallRecord.kind, TombstoneRecord.kind}


class DeviceState:
    """A device's memory; made by its class methods only.

    Threads may share it. ``memory`` may be read at any time; it is replaced, never changed.

    Attributes:
        directory: Where it lies.
        memory: What the device remembers.
        public_key: The device's key, which receipts verify with.
        trust: Whose signatures count on this device; ``None``: trust on first use.
        keeps_installed: Whether what was installed stays in use though others signed it.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self.memory: Memory
        self.public_key: PublicKey
        self.trust: TrustedKeys | None
        self.keeps_installed: bool
        self._layout = Layout(directory)
        self._clock = clock
        self._file = LedgerFile(self._layout.ledger)
        self._base: Memory | None = None  # what the file says; memory may know more
        self._unsettled: tuple[Line, ...] = ()
        self._reading = threading.Lock()  # held while memory is replaced, never while waiting
        self._writing = threading.RLock()  # held along with the lock file
        self._holder: int | None = None

    @classmethod
    def open(cls, directory: str | Path, *, clock: Clock = read_clock) -> "DeviceState":
        """Open the memory of this device.

        Args:
            directory: Where it lies.
            clock: What tells the time.

        Raises:
            StateMissingError: There is none.
            StateError: It is damaged, or another device's.
        """
        state = cls(Path(directory), clock)
        try:
            state.refresh()
        except StateMissingError:
            raise
        except StateError as error:
            # Somebody may just be adopting it, between the key and the record.
            try:
                with locked(state._layout):
                    state.refresh()
            except StorageError:  # no lock to be had: the first finding stands
                raise error from None
        return state

    @classmethod
    def create(
        cls,
        directory: str | Path,
        *,
        trust: TrustedKeys | None,
        bind: bool,
        clock: Clock = read_clock,
    ) -> "DeviceState":
        """Make a memory for this device, or open the one that another process just made.

        Args:
            directory: Where to; it is made if it is missing.
            trust: Whose signatures count; ``None``: trust on first use.
            bind: Whether to bind it to this machine, so that a copy elsewhere is noticed.
            clock: What tells the time.

        Raises:
            StateError: There is one already and ``trust`` is given, or the directory belongs to
                something else.
            StorageError: The disk refused; there is no state.
        """
        layout = Layout(Path(directory))
        made = create(layout, trust=trust, bind=bind, moment=clock(None))
        if not made and trust is not None:
            raise StateError(
                f"{directory} holds a device state already: pfm-device init --replace-trust "
                "changes whom it trusts"
            )
        return cls.open(directory, clock=clock)

    @classmethod
    def adopt(
        cls,
        directory: str | Path,
        *,
        trust: TrustedKeys | None = None,
        clock: Clock = read_clock,
    ) -> "DeviceState":
        """Take over a state that was copied here, or lost its key: a new key, the same memory.

        Args:
            directory: Where it lies.
            trust: Whose signatures count from now on; ``None``: whoever did before.
            clock: What tells the time.

        Raises:
            StateMissingError: There is none.
            StateError: Its ledger is damaged.
            StorageError: The disk refused; run it again.
        """
        state = cls(Path(directory), clock)
        state._read(trusting=True)
        with state._locked():
            state._read(trusting=True)
            identity = state.memory.identity
            with refused(state.directory, "run pfm-device init --adopt again"):
                key = new_key(state._layout)
                if trust is not None:
                    write_trust(state._layout, ManagedTrust(trust))
            bound = identity.machine is not None or trust is not None
            state._identify_as(
                key.key_id,
                machine_digest() if bound else None,
                managed=identity.managed or trust is not None,
            )
        return cls.open(directory, clock=clock)

    @classmethod
    def replace_trust(
        cls,
        directory: str | Path,
        trust: TrustedKeys,
        *,
        keep_installed: bool = False,
        clock: Clock = read_clock,
    ) -> "DeviceState":
        """Set whose signatures count on this device, and bind the state to this machine.

        It needs no readable ``trust/keys.json``: a damaged one is replaced.

        Args:
            directory: Where the state lies.
            trust: Whose signatures count from now on.
            keep_installed: Whether the bundle that was installed last for a model stays in use
                though others signed it.
            clock: What tells the time.

        Raises:
            StateMissingError: There is no state.
            StateError: Its ledger is damaged, or it is another device's.
            StorageError: The disk refused; run it again.
        """
        state = cls(Path(directory), clock)
        state._read(trusting=True)
        with state._locked():
            state._read(trusting=True)
            identity = state.memory.identity
            state._require_own(read_key(state._layout), identity)
            with refused(state.directory, "run pfm-device init --replace-trust again"):
                write_trust(state._layout, ManagedTrust(trust, keep_installed))
            machine = identity.machine or machine_digest()
            state._identify_as(identity.device, machine, managed=True)
        return cls.open(directory, clock=clock)

    @property
    def updates_directory(self) -> Path:
        """Where updates keep what they may lose."""
        return self._layout.updates

    def repository(self) -> RepositoryTrust | None:
        """Read what the device knows of the repository of its updates, if it was told of one.

        Raises:
            StateError: The file is unreadable or damaged.
        """
        return read_repository(self._layout)

    def know_repository(self, trust: RepositoryTrust) -> None:
        """Write what the device knows of the repository of its updates; durable when it returns.

        Raises:
            StorageError: The disk refused, and nothing changed.
        """
        with self._locked(), refused(self._layout.repository, "nothing changed"):
            write_repository(self._layout, trust)

    @property
    def device(self) -> str:
        """Id of the device's key."""
        return self.memory.identity.device

    def signing_key(self) -> SigningKey:
        """Read the device's private key.

        Raises:
            StateError: It is missing, or not this device's.
        """
        key = read_key(self._layout)
        self._require_own(key, self.memory.identity)
        return key

    def moment(self, not_before: str | None = None) -> Moment:
        """Tell the time for a record.

        Args:
            not_before: A time that has passed; the last record's has, at any rate.
        """
        return self._clock(max(self.memory.time, not_before or ""))

    def moved(self) -> bool:
        """Tell, by one system call, whether the ledger is not what was last read."""
        return self._file.moved()

    def refresh(self) -> Memory:
        """Read what was appended since, by whomever; return the memory as it is now.

        Raises:
            StateError: The ledger is damaged or gone, or now another device's. The memory stays
                what it was.
        """
        self._read(trusting=False)
        return self.memory

    def confirm(self) -> None:
        """Put on the disk what was read, before anybody else is told of it.

        Raises:
            StorageError: The disk refused.
        """
        self._file.confirm()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the memory against every other writer, up to date and on the disk; wait if need be.

        Entering it again in the same thread changes nothing. Two objects for one directory
        exclude each other, even in one thread: that would wait forever.

        Raises:
            StateError: As :meth:`refresh`.
            StorageError: It cannot be locked, or a record that an earlier failure left open
                cannot be written yet.
        """
        with self._locked():
            self.refresh()
            self.confirm()
            if self._unsettled:
                self._append([replace(decode(each), number=0) for each in self._unsettled])
            yield

    def append(self, *records: Record) -> tuple[Record, ...]:
        """Append records, in this order: all are on the disk when it returns.

        Only inside :meth:`exclusive`. A power cut may leave the first few of them; an error leaves
        none.

        Returns:
            The records with their numbers and digests.

        Raises:
            StorageError: The disk refused, and nothing changed. Where it refused to undo that
                too, the message says that it is not known; then this object's ``memory`` has
                the tombstones, installs and absences among them, and writes them again at the
                next chance. Other processes, and other objects of this one, go by the disk: a
                model that is running there may serve the class until the record is on it.
        """
        if self._holder != threading.get_ident():
            raise RuntimeError("DeviceState.append() belongs inside of exclusive()")
        return self._append(records) if records else ()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._writing:
            if self._holder is not None:  # this very thread, once more
                yield
                return
            with locked(self._layout):
                self._holder = threading.get_ident()
                try:
                    yield
                finally:
                    self._holder = None

    def _identify_as(self, device: str, machine: str | None, *, managed: bool) -> None:
        record = AdoptRecord(device=device, machine=machine, managed=managed, moment=self.moment())
        self._append([record])

    def _append(self, records: Sequence[Record]) -> tuple[Record, ...]:
        start = self._file.position
        lines = encode_all(records, start)
        try:
            contents = self._file.append(lines)
        except UnsettledError:
            with self._reading:
                kept = (glance(line[:-1]) for line in lines)
                self._unsettled = tuple(each for each in kept if each and each.kind in _UNSETTLED)
                self.memory = self._base_memory().after(Lines.of(self._unsettled))
            raise
        with self._reading:
            if self._file.position == start:  # no other thread was quick enough to read it
                self._base = self._base_memory().after(contents.reading.lines)
                self._file.accept(contents)
            self._unsettled = ()
            self.memory = self._base_memory()
        return tuple(decode(each) for each in contents.reading.lines)

    def _base_memory(self) -> Memory:
        if self._base is None:
            raise RuntimeError("this DeviceState was never read")
        return self._base

    def _read(self, *, trusting: bool) -> None:
        """Read what is new; ``trusting`` leaves out whether it is this device's."""
        with self._reading:
            if not self._file.moved():
                return
            contents = self._file.read()
            lines = contents.reading.lines
            try:
                new = self._base is None or contents.restarted
                base = Memory.of(lines) if new else self._base_memory().after(lines)
            except StateError as error:
                raise StateError(f"{self._layout.ledger}: {error}") from error
            if not trusting and (self._base is None or base.identity != self._base.identity):
                self._identify(base.identity)
            self._file.accept(contents)
            self._base = base
            there = {seen[-1] for seen in lines.seen} if self._unsettled else set()
            self._unsettled = tuple(each for each in self._unsettled if each.digest not in there)
            self.memory = base.after(Lines.of(self._unsettled)) if self._unsettled else base

    def _identify(self, identity: InitRecord) -> None:
        """Require that the state is this device's; take over its key and whom it trusts."""
        key = read_key(self._layout)
        self._require_own(key, identity)
        trust = read_trust(self._layout)
        if trust is None and identity.managed:
            raise StateError(
                f"{self._layout.trust} is missing, so nobody is trusted: write it again with "
                "pfm-device init --replace-trust --key ISSUER.pub"
            )
        self.public_key = key.public
        self.trust = None if trust is None else trust.bundles
        self.keeps_installed = trust is not None and trust.keep_installed

    def _require_own(self, key: SigningKey, identity: InitRecord) -> None:
        if key.key_id != identity.device:
            raise StateError(
                f"{self.directory} is the state of another device: its ledger belongs to key "
                f"{identity.device[:16]}…, device.key is {key.key_id[:16]}…; {_ADOPT}"
            )
        if identity.machine is not None and identity.machine != machine_digest():
            raise StateError(
                f"{self.directory} is the state of another device: it is bound to another "
                f"machine; {_ADOPT}"
            )
