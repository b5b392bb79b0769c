"""A ledger's lines at a glance: what opening needs of them, without parsing JSON.

Owns the spelling of the lines that a ledger holds by the thousand. A line whose digest verifies is
one that we wrote, in canonical form, so one regular expression finds its fields in a fraction of
the time that a JSON parser takes. Whatever it does not know by its spelling is decoded in full::

    line = glance(text)
    line.kind, line.number, line.digest
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

__all__ = [
    "ABSENT",
    "ERASED",
    "INSTALL",
    "TOMBSTONE",
    "Line",
    "Lines",
    "Seen",
    "glance",
    "glance_all",
    "texts_of",
]

# Where Seen has them.
TOMBSTONE, ERASED, INSTALL, ABSENT = slice(3, 6), slice(6, 10), slice(10, 16), slice(16, 17)

# Fields of a fixed length are skipped with a dot, which costs nothing: what they hold is only ever
# compared, and a line that verifies is our own. A class such as [0-9a-f] would look at each digit.
_HEX = ".{64}"
_ORDER = r'"order":(?:null|\{[^}]*\})'
_MOMENT = '"time":".{20}"'
_TOMBSTONE = (
    r'"class_id":"(.{32})","clock":"[^"]+",'
    rf'"entry_digest":"({_HEX})","model_id":".{{71}}",{_ORDER},"statement":"({_HEX})",{_MOMENT}'
)
_ERASED = (
    rf'"bundle":"{_HEX}","class_id":"(.{{32}})","clock":"[^"]+","device":"{_HEX}",'
    rf'"entry_digest":"({_HEX})","model_id":".{{71}}","old_bytes":\{{[^}}]*\}},{_ORDER},'
    rf'"software":"[^"]*","statement":"({_HEX})",{_MOMENT},"tombstone":([0-9]{{1,16}})'
)
_INSTALL = (
    r'"absent":\[([^]]*)\],"clock":"[^"]+","epoch":([0-9]{1,16}),"model_id":"(.{71})",'
    rf'"sequence":([0-9]{{1,16}}),"signers":\[([^]]*)\],"statement":"({_HEX})",{_MOMENT}'
)
_ABSENT = (
    rf'"bundle":(?:null|"{_HEX}"),"class_id":"(.{{32}})","clock":"[^"]+","device":"{_HEX}",'
    rf'"model_id":(?:null|".{{71}}"),{_ORDER},"software":"[^"]*",{_MOMENT}'
)
_TIME = re.compile(rb'"time":"([^"]{20})"')
_LINE = re.compile(
    rf'\{{"kind":"([a-z]+)","number":([0-9]{{1,16}}),"previous":"({_HEX})","record":\{{'
    rf'(?:{_TOMBSTONE}\}}|{_ERASED}\}}|{_INSTALL}\}}|{_ABSENT}\}}|[^\n]*\}}),"sha256":"({_HEX})"\}}\n',
    re.DOTALL,
)


Seen: TypeAlias = tuple[str, ...]
"""The groups of the expression for one line, empty where its kind has no such field.

Kind, number and previous digest; class id, entry digest and statement of a tombstone; the same of
an ``erased`` record, and its tombstone; absent entries, epoch, model, sequence, signers and
statement of an install; class id of an absent one; the record's digest.
"""


class Line(NamedTuple):
    """A line of a ledger that verifies.

    Attributes:
        seen: What a glance saw in it.
        text: The line, without its line feed.
    """

    seen: Seen
    text: bytes

    @property
    def kind(self) -> str:
        """The kind of its record."""
        return self.seen[0]

    @property
    def number(self) -> int:
        """The record's place in the ledger."""
        return int(self.seen[1])

    @property
    def previous(self) -> str:
        """The digest that it names as that of the record before."""
        return self.seen[2]

    @property
    def digest(self) -> str:
        """The record's digest."""
        return self.seen[-1]

    @property
    def time(self) -> str:
        """When it was written; empty if it does not say."""
        found = _TIME.search(self.text)
        return "" if found is None else found[1].decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that verify, in columns: ten thousand records have no time for an object each.

    Attributes:
        seen: What a glance saw in each.
        texts: The lines, without their line feeds.
    """

    seen: list[Seen]
    texts: list[bytes]

    def __len__(self) -> int:
        return len(self.seen)

    def __iter__(self) -> Iterator[Line]:
        return map(Line, self.seen, self.texts)

    @property
    def last(self) -> Line | None:
        """The last one, if there is any."""
        return Line(self.seen[-1], self.texts[-1]) if self.seen else None

    @classmethod
    def of(cls, lines: Iterable[Line]) -> "Lines":
        """Put single lines into columns."""
        listed = list(lines)
        return cls([each.seen for each in listed], [each.text for each in listed])


def glance(text: bytes) -> Line | None:
    """Look at one line without its line feed; ``None`` if it is not spelt as one."""
    found = _LINE.fullmatch(text.decode("utf-8", "replace") + "\n")
    return None if found is None else Line(found.groups(""), text)


def glance_all(data: bytes) -> list[Seen]:
    """Look at many lines at once, each with its line feed; those not spelt as one are left out."""
    found: list[Seen] = _LINE.findall(data.decode("utf-8", "replace"))
    return found


def texts_of(array: str) -> list[str]:
    """Take the texts out of an array that was found without its brackets: ``'"a","b"'``."""
    return array[1:-1].split('","') if array else []
