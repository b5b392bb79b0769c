"""Entries: one class in a bundle, and the salted string that the issuer's digest covers.

Owns the spelling of an entry string, what a class id and a label may be, and the digest that ties
an entry to its rows. The salt keeps a digest from being guessed back to a label once the entry is
gone; it lives as long as the entry::

    record = EntryRecord.parse(text, limits)
    record.digest in statement.entry_digests
"""

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NewType

from pfm_edge_runtime._base64 import Base64Error, decode_base64url, encode_base64url
from pfm_edge_runtime._strict_json import canonical
from pfm_edge_runtime.bundle._container import FloatArray, as_bytes
from pfm_edge_runtime.bundle._json import parse_texts
from pfm_edge_runtime.bundle._limits import BundleLimits
from pfm_edge_runtime.bundle._statement import EntryDigest
from pfm_edge_runtime.digest import HEX64
from pfm_edge_runtime.errors import BundleFormatError

__all__ = [
    "ClassId",
    "Entry",
    "EntryRecord",
    "is_class_id",
    "new_class_id",
    "normal_label",
    "row_digests",
]

ClassId = NewType("ClassId", str)
"""32 lower-case hexadecimal digits: 128 random bits, drawn once per class."""

_RANDOM_BYTES = 16  # 128 bits, for class ids and salts
_HEX32 = re.compile(r"[0-9a-f]{32}")
# Control characters and line ends: a label is one line of text, and safe on a terminal.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# The canonical spelling of an entry whose label needs no escapes (RFC 8259, section 7).
_PLAIN = re.compile(r'\["([0-9a-f]{32})","([0-9a-f]{32})","([^"\\\x00-\x1f]*)","([0-9a-f]{64})"\]')


def new_class_id() -> ClassId:
    """Draw a class id from the operating system's random source."""
    return ClassId(secrets.token_hex(_RANDOM_BYTES))


def is_class_id(text: str) -> bool:
    """Tell whether ``text`` is spelt as a class id is."""
    return _HEX32.fullmatch(text) is not None


def normal_label(label: str, limits: BundleLimits) -> str:
    """Return ``label`` in Unicode's normal form C, the only form that is stored.

    Raises:
        BundleFormatError: It is empty or too long, or it holds control characters or half of a
            surrogate pair. The message does not repeat it.
    """
    label = unicodedata.normalize("NFC", label)
    try:
        length = len(label.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise BundleFormatError("a label holds half of a surrogate pair") from error
    if not 1 <= length <= limits.max_label_bytes:
        raise BundleFormatError(f"a label has {length} bytes, not 1 to {limits.max_label_bytes}")
    if _CONTROL.search(label):
        raise BundleFormatError("a label holds control characters or line ends")
    return label


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One class, with everything that the bundle stores about it.

    Attributes:
        class_id: The class.
        label: What a person reads; not shown in the representation.
        tensors: float32, one slice per class input, each of that input's slice shape, by name.
        salt: 32 hexadecimal digits; ``None`` has one drawn when the bundle is built. An entry
            that is issued again keeps its salt.
    """

    class_id: ClassId
    label: str = field(repr=False)
    tensors: Mapping[str, FloatArray] = field(repr=False)
    salt: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """An entry string, taken apart.

    Attributes:
        text: The string as stored; its digest is what the statement lists.
        salt: 128 random bits in hexadecimal.
        class_id: The class.
        label: What a person reads, in normal form C.
        row_digest: SHA-256 of the rows of this class.
        digest: SHA-256 of ``text``, which the statement lists.
    """

    text: str
    salt: str = field(repr=False)
    class_id: ClassId
    label: str = field(repr=False)
    row_digest: str
    digest: EntryDigest

    @classmethod
    def make(cls, entry: Entry, digest: str, limits: BundleLimits) -> "EntryRecord":
        """Spell an entry, drawing a salt if it has none.

        Raises:
            BundleFormatError: A part of it is malformed.
        """
        salt = secrets.token_hex(_RANDOM_BYTES) if entry.salt is None else entry.salt
        label = normal_label(entry.label, limits)
        stored = encode_base64url(canonical([salt, entry.class_id, label, digest]))
        return cls.parse(stored, limits)

    @classmethod
    def parse(cls, text: str, limits: BundleLimits) -> "EntryRecord":
        """Take an entry string apart.

        Raises:
            BundleFormatError: It is not the canonical spelling of an entry.
        """
        try:
            stored = decode_base64url(text)
        except Base64Error as error:
            raise BundleFormatError(f"an entry's {error}") from error
        salt, class_id, label, rows = _plain_parts(stored) or _any_parts(stored, limits)
        if not _is_plain(label, limits) and normal_label(label, limits) != label:
            raise BundleFormatError(f"the label of class {class_id} is not in normal form C")
        digest = EntryDigest(hashlib.sha256(text.encode("ascii")).hexdigest())
        return cls(text, salt, ClassId(class_id), label, rows, digest)


def _plain_parts(stored: bytes) -> tuple[str, ...] | None:
    """Take an entry apart whose label needs no escapes; nearly every one."""
    try:
        found = _PLAIN.fullmatch(stored.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    return found and found.groups()


def _any_parts(stored: bytes, limits: BundleLimits) -> tuple[str, ...]:
    """Take any entry apart, or say what is wrong with it."""
    parts = parse_texts("an entry", stored, limits)
    if len(parts) != 4:  # noqa: PLR2004 (the four that the next line names)
        raise BundleFormatError("an entry has other parts than salt, id, label and digest")
    salt, class_id, label, digest = parts
    if not is_class_id(class_id):
        raise BundleFormatError("a class id is not 32 lower-case hexadecimal digits")
    if _HEX32.fullmatch(salt) is None or HEX64.fullmatch(digest) is None:
        raise BundleFormatError(f"salt or row digest of class {class_id} is malformed")
    return salt, class_id, label, digest


def _is_plain(label: str, limits: BundleLimits) -> bool:
    """Tell at a glance whether nothing about a label needs a closer look."""
    return label.isascii() and label.isprintable() and 0 < len(label) <= limits.max_label_bytes


def row_digests(tensors: Iterable[FloatArray], rows: int) -> Iterator[str]:
    """Digest the rows of each class, one class after another.

    Args:
        tensors: float32 ``[rows, *slice_shape]``, in the order of the statement's inputs.
        rows: How many there are.

    Yields:
        Lower-case hexadecimal SHA-256 over the little-endian bytes of a class's slices, one slice
        after another.
    """
    # Slices of plain bytes: a NumPy view for each row and tensor costs more than its hash.
    stored = [as_bytes(tensor) for tensor in tensors]
    sizes = [len(each) // max(rows, 1) for each in stored]
    for row in range(rows):
        digest = hashlib.sha256()
        for each, size in zip(stored, sizes, strict=True):
            digest.update(each[row * size : (row + 1) * size])
        yield digest.hexdigest()
