"""What must be true of a device whatever interrupted it, checked on a real directory.

Owns the rules, all taken from the design: a class is kept, or refused and not yet erased, or erased
with a receipt; once its tombstone is on the disk it is never served; no other class is lost; once
it is erased its bytes are gone; what was said to be recorded stays; and the next open, or the same
request again, always gets there::

    judge = Judge(SCENARIOS["forget"], root)
    verdict = judge(root)
    verdict.violations                       # [] or what is wrong, in words
    verdict.before, verdict.after            # {"rose": "refused"}, {"rose": "erased"}
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from pfm_edge_runtime.bundle import Bundle, VerifiedBundle
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import NoClassLeftError, PfmEdgeError
from pfm_edge_runtime.keys import SigningKey, public_from_pem
from pfm_edge_runtime.receipts import verify_receipt
from tests.support.crash_scenarios import Scenario, class_id, forget, open_root
from tests.support.device_disk import (
    BUNDLE,
    ERASED,
    KEPT,
    LEDGER,
    REFUSED,
    DeviceDisk,
    Record,
    rows_of,
    traces_of,
)
from tests.support.tiny_package import CLASS_INPUTS, quarter, reference

_PACKAGE = {"manifest.json", "backbone.onnx", "golden.safetensors", "bundle.safetensors"}


@dataclass(slots=True)
class Verdict:
    """What was found.

    Attributes:
        violations: What must not be, one line each.
        before: Which state each class that the scenario forgets was in on the disk, by label.
        after: The same, after the device opened its model.
    """

    violations: list[str] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)

    def require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.violations.append(otherwise)


class Judge:
    """Judges one scenario's disks. It opens, finishes and forgets there: give it a copy.

    Args:
        scenario: What was interrupted.
        root: Any disk of it that has a package.
    """

    def __init__(self, scenario: Scenario, root: Path) -> None:
        self._scenario = scenario
        old, new = issued = scenario.issued(root)
        self._issued = {old.statement_digest: old}
        if scenario.installs:
            self._issued[new.statement_digest] = new
        self._newest = [*self._issued][-1]
        self._traces = {
            label: traces_of(issued, label) for label in scenario.forgotten + scenario.gone
        }
        self._replaced = set().union(*(traces_of([old], each) for each in scenario.replaced))
        self._redacted = {
            label: _digests_without(issued, label, [*self._traces]) for label in scenario.forgotten
        }
        self._predicted: set[str] = set()
        self._settled: set[tuple[Any, ...]] = set()

    def __call__(
        self,
        root: Path,
        *,
        acknowledged: Sequence[Record] = (),
        done: bool = False,
        remains: Iterable[bytes] = (),
    ) -> Verdict:
        """Open the device, and let it finish; it may then do again what was interrupted.

        Args:
            root: The disk.
            acknowledged: The ledger's records that were said to be durable.
            done: Whether the whole operation was said to be done.
            remains: Bytes on the disk that no name leads to.
        """
        verdict = Verdict()
        try:
            self._judge(verdict, root, acknowledged, b"\0".join(remains))
            if done:
                self._require_done(verdict, root)
            self._require_idempotence(verdict, root)
        except PfmEdgeError as error:
            verdict.violations.append(f"{type(error).__name__}: {error}")
        return verdict

    def _judge(
        self, verdict: Verdict, root: Path, acknowledged: Sequence[Record], remains: bytes
    ) -> None:
        disk = DeviceDisk.read(root)
        verdict.before = self._states(verdict, disk, remains)
        verdict.require(
            disk.records[: len(acknowledged)] == tuple(acknowledged),
            "a record that was said to be durable is gone",
        )
        promised = {
            each["record"]["class_id"] for each in acknowledged if each["kind"] == "tombstone"
        }
        opened = self._opened(verdict, root)
        verdict.after = self._states(verdict, opened, remains)
        verdict.require(
            opened.records[: len(disk.records)] == disk.records, "an open removed a record"
        )
        for label, state in verdict.after.items():
            was = KEPT if class_id(label) not in promised else REFUSED
            verdict.require(state != REFUSED, f"{label} is not erased though the disk works")
            verdict.require(
                state == ERASED or {was, verdict.before[label]} == {KEPT}, f"{label} is back"
            )

    def _opened(self, verdict: Verdict, root: Path) -> DeviceDisk:
        """Open; require the right classes with their rows, and nothing left over."""
        bundle = open_root(root).bundle
        disk = DeviceDisk.read(root)
        gone = {class_id(each) for each in self._scenario.gone}
        named = {class_id(each) for each in self._scenario.forgotten} | gone
        tombstones = disk.classes("tombstone")
        verdict.require(tombstones <= named, "a class was forgotten that nobody named")
        issued = self._issued.get(bundle.statement_digest)
        verdict.require(issued is not None, "the bundle is none that was issued for this device")
        if issued is not None:
            expected = rows_of(issued)
            for key in tombstones | gone:
                expected.pop(key, None)
            verdict.require(
                rows_of(bundle.bundle) == expected,
                "not exactly the retained classes are served, or not with their rows",
            )
        extra = {each.name for each in (root / "model").iterdir()} ^ _PACKAGE
        extra |= {each.name for each in (root / "state").iterdir() if each.name.endswith(".tmp")}
        verdict.require(not extra, f"files are missing or left over: {sorted(extra)}")
        key = SigningKey.from_pem(disk.files["state/device.key"])
        verdict.require(
            public_from_pem(disk.files["state/device.pub"]) == key.public,
            "device.pub is not the device's key",
        )
        self._require_predictions(verdict, root, disk, bundle)
        return disk

    def _require_predictions(
        self, verdict: Verdict, root: Path, disk: DeviceDisk, bundle: VerifiedBundle
    ) -> None:
        """Predict, once for each bundle there is: a session for every disk would take minutes."""
        if disk.bundle in self._predicted:
            return
        self._predicted.add(disk.bundle)
        model = Classifier.open(root / "model", state=root / "state", threads=1)
        images = [quarter(index) for index in range(4)]
        try:
            found = model.predict(images)
        except NoClassLeftError:
            verdict.require(not len(bundle), "nothing is predicted though a class is left")
            return
        for each, best in zip(found, _expected(bundle), strict=True):
            verdict.require(
                each.class_id == bundle.class_ids[best]
                and each.scores.keys() == set(bundle.class_ids),
                "an image is predicted as something else",
            )

    def _states(self, verdict: Verdict, disk: DeviceDisk, remains: bytes) -> dict[str, str]:
        """Tell which state each class is in, and require that the bytes agree with it."""
        states = {}
        for label, traces in self._traces.items():
            state, where = disk.state(class_id(label)), disk.holding(traces)
            # What comes back in an old copy was erased before: it is erased again by an open.
            again = label in self._scenario.gone
            verdict.require(
                state != KEPT or BUNDLE in where, f"{label} is gone without a tombstone"
            )
            verdict.require(
                state != ERASED or again or not where, f"{label} is erased, and still in {where}"
            )
            verdict.require(
                state == KEPT or not any(trace in remains for trace in traces),
                f"the bytes of {label} lie where no name leads to",
            )
            verdict.require(
                label.encode() not in disk.files.get(LEDGER, b""), f"the ledger names {label}"
            )
            if not again:
                states[label] = state
        verdict.require(
            not any(trace in remains for trace in self._replaced),
            "bytes of the old bundle lie where no name leads to",
        )
        return states

    def _require_done(self, verdict: Verdict, root: Path) -> None:
        """Require, of a device that opened its model, what the operation was for."""
        disk = DeviceDisk.read(root)
        for label, traces in self._traces.items():
            verdict.require(
                disk.state(class_id(label)) == ERASED and not disk.holding(traces),
                f"{label} is not erased though that was done",
            )
        verdict.require(
            open_root(root).bundle.statement_digest == self._newest, "the new bundle is gone"
        )
        verdict.require(
            not disk.holding(self._replaced), "what the new bundle replaced is still there"
        )

    def _require_idempotence(self, verdict: Verdict, root: Path) -> None:
        """Forget again, or at last: the same receipts each time, and they verify."""
        # What a device in order does follows from its bundle and ledger: once for each is enough.
        disk = DeviceDisk.read(root)
        if disk.meaning in self._settled or not self._scenario.forgotten:
            return
        self._settled.add(disk.meaning)
        first, second = (forget(root, *self._scenario.forgotten) for _ in range(2))
        receipts = [each.receipt for each in first]
        verdict.require(
            receipts == [each.receipt for each in second] and None not in receipts,
            "forgetting twice does not give one receipt",
        )
        public = public_from_pem(disk.files["state/device.pub"])
        for label, receipt in zip(self._scenario.forgotten, receipts, strict=True):
            record = verify_receipt(receipt or "", public).record
            verdict.require(
                record.class_id == class_id(label) and record.bundle in self._redacted[label],
                f"the receipt of {label} is about something else",
            )
        self._opened(verdict, root)
        self._require_done(verdict, root)


def _expected(bundle: VerifiedBundle) -> Sequence[int]:
    """Return the row of the class that each quarter belongs to, by NumPy."""
    images = [quarter(index)[None] for index in range(4)]
    tensors = {
        each.name: np.moveaxis(bundle.tensors[each.name], 0, each.class_axis)
        for each in CLASS_INPUTS
    }
    pixels = np.stack(images).astype(np.float32) / 127.5 - 1
    return [int(row) for row in reference(pixels, tensors)[0].argmax(axis=1)]


def _digests_without(bundles: Iterable[Bundle], label: str, gone: Collection[str]) -> set[str]:
    """Return what a receipt of this class may be about: what is left of a bundle is canonical."""
    found = set()
    for bundle, size in product(bundles, range(len(gone))):
        for others in combinations([each for each in gone if each != label], size):
            ids = {class_id(each) for each in (label, *others)} & set(bundle.class_ids)
            found.add(hashlib.sha256(bundle.without(ids).to_bytes()).hexdigest())
    return found
