"""Bundles on the workstation: read, explained, compared, verified and signed, one file each.

Owns what `pfm-edge bundle` does without its command line::

    bundle = read_bundle(Path("model"))             # a bundle, or the package that it lies in
    describe(bundle).signers
    compare(bundle, read_bundle(Path("newer/bundle.safetensors"))).added
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pfm_edge._reading import read_whole
from pfm_edge_runtime.bundle import (
    Bundle,
    BundleLimits,
    ClassId,
    Entry,
    Expectation,
    ModelBinding,
    TrustedKeys,
    VerifiedBundle,
)
from pfm_edge_runtime.errors import (
    BundleError,
    EnvelopeError,
    StorageError,
    UnknownClassError,
)
from pfm_edge_runtime.keys import PublicKey, SigningKey, key_id
from pfm_edge_runtime.manifest import BUNDLE_FILE
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.store import exclusive, write_atomic

__all__ = [
    "BundleChanges",
    "BundleFacts",
    "bundle_without",
    "compare",
    "describe",
    "read_bundle",
    "sign_bundle",
    "verify_bundle",
    "write_bundle",
]


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What a bundle states.

    Attributes:
        model_id: The model that it is for.
        epoch: With `sequence`, its place in time.
        sequence: As `epoch`.
        issued_at: When, RFC 3339.
        manifests: Digests of the manifests that it may serve.
        inputs: Slice shape of each class input, by name.
        signers: Key ids of those who signed.
        signatures_valid: Whether every signature verifies; None where there is none.
        classes: Label by class id.
        dropped: How many entries are listed and no longer there.
    """

    model_id: str
    epoch: int
    sequence: int
    issued_at: str
    manifests: tuple[str, ...]
    inputs: Mapping[str, tuple[int, ...]]
    signers: tuple[str, ...]
    signatures_valid: bool | None
    classes: Mapping[str, str] = field(repr=False)
    dropped: int

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        classes = [{"class_id": each, "label": label} for each, label in self.classes.items()]
        return {**asdict(self), "classes": classes}


@dataclass(frozen=True, slots=True)
class BundleChanges:
    """What the second of two bundles has, by class id, that the first has not; and so on.

    Attributes:
        added: Only in the second.
        gone: Only in the first.
        changed: In both, with other tensors.
        relabelled: In both, with another label.
    """

    added: tuple[str, ...]
    gone: tuple[str, ...]
    changed: tuple[str, ...]
    relabelled: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle; signatures are read, not verified.

    Args:
        path: the file, or the package that it lies in.

    Raises:
        BundleError: it is missing, unreadable, or breaks the format.
    """
    path, data = _read(path)
    try:
        return Bundle.from_bytes(data)
    except BundleError as error:
        raise type(error)(f"{path}: {error}", step=error.step) from error


def describe(bundle: Bundle) -> BundleFacts:
    """Say what a bundle states."""
    statement = bundle.statement
    return BundleFacts(
        model_id=statement.model_id,
        epoch=statement.epoch,
        sequence=statement.sequence,
        issued_at=statement.issued_at,
        manifests=statement.manifests,
        inputs=dict(statement.inputs),
        signers=tuple(key_id(each.public) for each in bundle.envelope.signatures),
        signatures_valid=_signatures_valid(bundle),
        classes=dict(zip(bundle.class_ids, bundle.labels, strict=True)),
        dropped=len(statement.entry_digests) - len(bundle),
    )


def compare(first: Bundle, second: Bundle) -> BundleChanges:
    """Say what became of each class from one bundle to another."""
    before = {each.class_id: each for each in first.entries}
    after = {each.class_id: each for each in second.entries}
    pairs = [(each, before[each], after[each]) for each in before if each in after]
    return BundleChanges(
        added=tuple(each for each in after if each not in before),
        gone=tuple(each for each in before if each not in after),
        changed=tuple(id_ for id_, one, other in pairs if _rows(one) != _rows(other)),
        relabelled=tuple(id_ for id_, one, other in pairs if one.label != other.label),
    )


def verify_bundle(
    path: Path, keys: Collection[PublicKey], *, threshold: int | None, package: Path | None
) -> VerifiedBundle:
    """Verify a bundle as a new device would that trusts these keys.

    Args:
        path: the file, or the package that it lies in.
        keys: whose signatures count; with none, whatever signatures there are must verify.
        threshold: how many of them are needed; all of them by default.
        package: what it must be for, the package's files included; None leaves that open.

    Raises:
        BundleError: it does not verify; the message says which of the eleven steps found it.
        PackageError: the package is damaged.
        ConfigError: the threshold makes no sense.
    """
    trust = None
    if keys or threshold is not None:
        trust = TrustedKeys(len(set(keys)) if threshold is None else threshold, frozenset(keys))
    path, data = _read(path)
    try:
        if package is None:
            binding = _own_binding(Bundle.from_bytes(data))
        else:
            binding = PackageFiles.open(package).binding
        return VerifiedBundle.from_bytes(data, Expectation(binding=binding, trust=trust))
    except BundleError as error:
        raise type(error)(f"{path}: {error}", step=error.step) from error


def sign_bundle(path: Path, signers: Collection[SigningKey], out: Path | None = None) -> Bundle:
    """Add signatures to a bundle's file; those that are there must verify.

    A forget waits meanwhile: between our reading and our writing it would be undone.

    Args:
        path: the file, or the package that it lies in.
        signers: who signs.
        out: where the signed bundle goes; None puts it in the place of the other.

    Raises:
        BundleError: it is missing, unreadable, or breaks the format.
        EnvelopeError: a signature on it is wrong, or it has as many as it may have.
        StorageError: something else is at `out`, or the disk refused.
    """
    if not _file(path).parent.is_dir():
        read_bundle(path)  # says what is missing
    with exclusive(_file(path).parent):
        bundle = read_bundle(path)
        try:
            bundle.envelope.signers()
            for each in signers:
                bundle = bundle.signed_by(each)
        except EnvelopeError as error:
            raise type(error)(f"{_file(path)}: {error}; it is not signed") from error
        write_bundle(bundle, out or path, replaces=path)
    return bundle


def bundle_without(path: Path, names: Collection[str]) -> Bundle:
    """Read a bundle and take classes out, by id or label.

    Raises:
        BundleError: it is missing, unreadable, or breaks the format.
        UnknownClassError: a name is none of its classes; the message does not repeat it.
    """
    bundle = read_bundle(path)
    by_label = dict(zip(bundle.labels, bundle.class_ids, strict=True))
    gone: set[ClassId] = set()
    for number, name in enumerate(names, start=1):
        found = {each for each in bundle.class_ids if each == name}
        found |= {by_label[label] for label in (normalize("NFC", name),) if label in by_label}
        if len(found) != 1:
            what = "two classes" if found else "no class"
            raise UnknownClassError(
                f"{_file(path)}: name {number} of {len(names)} is that of {what}; "
                "pfm-edge bundle inspect lists the ids"
            )
        gone |= found
    return bundle.without(gone)


def write_bundle(bundle: Bundle, out: Path, *, replaces: Path | None = None) -> None:
    """Write a bundle, durably and whole, over nothing but what it was made from.

    Args:
        bundle: what to write.
        out: the file, or the package that it lies in.
        replaces: the only file that may be there already.

    Raises:
        StorageError: something else is there, or the disk refused.
    """
    out = _file(out)
    if out.exists() and (replaces is None or out != _file(replaces)):
        raise StorageError(f"{out} exists: name another file, or remove it")
    write_atomic(out, bundle.to_bytes())


def _read(path: Path) -> tuple[Path, bytes]:
    path = _file(path)
    return path, read_whole(path, most=BundleLimits().max_file_bytes, error=BundleError)


def _file(path: Path) -> Path:
    return path / BUNDLE_FILE if path.is_dir() else path


def _rows(entry: Entry) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in entry.tensors.items()}


def _own_binding(bundle: Bundle) -> ModelBinding:
    """What the bundle says itself that it is for: step 4 then has nothing to object."""
    statement = bundle.statement
    return ModelBinding(statement.model_id, statement.manifests[0], statement.inputs)


def _signatures_valid(bundle: Bundle) -> bool | None:
    if not bundle.envelope.signatures:
        return None
    try:
        bundle.envelope.signers()
    except EnvelopeError:
        return False
    return True
