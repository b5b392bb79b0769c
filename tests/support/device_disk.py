"""A device's disk, read without the device's own code: so that a mistake there does not hide here.

Owns what the crash tests look at: the files, the ledger's records, and which of the three states a
class is in::

    disk = DeviceDisk.read(root)
    disk.state(class_id)                     # "kept", "refused" or "erased"
    disk.holding(traces)                     # ["model/bundle.safetensors"]
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pfm_edge_runtime.bundle import Bundle

KEPT, REFUSED, ERASED = "kept", "refused", "erased"
BUNDLE, LEDGER = "model/bundle.safetensors", "state/ledger.jsonl"
Record: TypeAlias = Mapping[str, Any]
_MARK = b',"sha256":"'


@dataclass(frozen=True, slots=True)
class DeviceDisk:
    """The files of a device.

    Attributes:
        files: By path.
        records: The ledger's, but for a torn end.
    """

    files: Mapping[str, bytes]
    records: tuple[Record, ...]

    @classmethod
    def read(cls, root: Path) -> "DeviceDisk":
        files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
        return cls(files, ledger_records(files.get(LEDGER, b"")))

    @property
    def bundle(self) -> str:
        """SHA-256 of the bundle's file."""
        return hashlib.sha256(self.files[BUNDLE]).hexdigest()

    @property
    def meaning(self) -> tuple[Any, ...]:
        """What bundle and ledger say, but for times and for whose they are."""
        return self.bundle, *((each["kind"], *_about(each["record"])) for each in self.records)

    def classes(self, kind: str) -> set[str]:
        """Return the ids of the classes that records of this kind are about."""
        return {each["record"]["class_id"] for each in self.records if each["kind"] == kind}

    def state(self, class_id: str) -> str:
        if class_id in self.classes("erased"):
            return ERASED
        return REFUSED if class_id in self.classes("tombstone") else KEPT

    def holding(self, traces: Iterable[bytes]) -> list[str]:
        """Return the files that hold any of these bytes."""
        return sorted(name for name, data in self.files.items() if any(t in data for t in traces))


def ledger_records(ledger: bytes) -> tuple[Record, ...]:
    """Return the records of a ledger but for a torn end; each verified on its own."""
    *lines, _ = ledger.split(b"\n")
    records: list[Record] = []
    for line in lines:
        covered, mark, rest = line.rpartition(_MARK)
        if not mark or rest != hashlib.sha256(covered).hexdigest().encode() + b'"}':
            break
        records.append(json.loads(line))
        if records[-1]["number"] != len(records):
            break
    return tuple(records)


def rows_of(bundle: Bundle) -> dict[str, tuple[str, bytes]]:
    """Return label and rows of every class, by id."""
    return {
        each.class_id: (
            each.label,
            b"".join(each.tensors[name].tobytes() for name in sorted(each.tensors)),
        )
        for each in bundle.entries
    }


def traces_of(bundles: Iterable[Bundle], label: str) -> set[bytes]:
    """Return what may not remain of a class: its entry as stored, and its prompt."""
    found = set()
    for bundle in bundles:
        if label in bundle.labels:
            row, data = bundle.labels.index(label), bundle.to_bytes()
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            found.add(json.loads(header["__metadata__"]["entries"])[row].encode())
            found.add(bundle.tensors["prompt_values"][row].tobytes())
    return found


def _about(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    method = fields.get("old_bytes", {}).get("method")
    return fields.get("class_id"), fields.get("statement"), method
