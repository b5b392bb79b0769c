"""Options of a target: declared once as a frozen dataclass, read from ``key=value``, listed.

Owns the words between a person and a dataclass::

    @dataclass(frozen=True, slots=True)
    class Options:
        max_batch: int = option(8, parse=whole(1, 4096), kind="1 to 4096", help="Images at once.")

    parse_options("triton", Options, ["max-batch=16"]).max_batch       # 16
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from pfm_edge_exporters.tensorrt_from_onnx import Range
from pfm_edge_runtime._phrases import nearest
from pfm_edge_runtime.errors import ConfigError, PfmEdgeError

__all__ = [
    "OptionInfo",
    "as_texts",
    "choice",
    "describe_options",
    "flag",
    "option",
    "parse_options",
    "size_range",
    "size_ranges",
    "text",
    "whole",
    "words",
]

T = TypeVar("T")
Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option, for a person.

    Attributes:
        name: As it is given.
        kind: What its value looks like.
        default: The value that it has where it is not given; empty for none.
        help: What it does.
    """

    name: str
    kind: str
    default: str
    help: str


def option(default: T, *, parse: Callable[[str], T], kind: str, help: str) -> T:  # noqa: A002 (as typer's)
    """Declare a field of an options dataclass.

    Args:
        default: Its value where it is not given.
        parse: Reads it; raises ValueError for what it cannot be.
        kind: What the value looks like.
        help: What it does, as a sentence.
    """
    found: T = field(default=default, metadata={"parse": parse, "kind": kind, "help": help})
    return found


def describe_options(options: type) -> tuple[OptionInfo, ...]:
    """List the options of a dataclass, in order."""
    return tuple(
        OptionInfo(
            _dashed(each.name), each.metadata["kind"], _shown(each.default), each.metadata["help"]
        )
        for each in fields(options)
    )


def as_texts(options: Any) -> dict[str, str]:
    """Return the values of an options dataclass, spelt as a person would give them."""
    return {each.name: _shown(getattr(options, each.name)) for each in fields(options)}


def parse_options(
    target: str,
    options: type[Options],
    given: Sequence[str],
    others: Mapping[str, type] | None = None,
) -> Options:
    """Read options that were given as ``key=value``.

    Args:
        target: Who takes them, for messages.
        options: The dataclass.
        given: In any order; hyphens and underscores are alike.
        others: The dataclasses of the other targets, to tell a foreign option from a misspelt one.

    Raises:
        ConfigError: One is unknown, given twice, or has a value that it cannot have.
    """
    known = {each.name: each for each in fields(options)}  # type: ignore[arg-type] # (a dataclass)
    values: dict[str, Any] = {}
    for each in given:
        key, equals, value = each.partition("=")
        name = key.strip().replace("-", "_")
        if name not in known:
            raise ConfigError(_unknown(target, key, list(known), others or {}))
        if not equals:
            kind = known[name].metadata["kind"]
            name = _dashed(name)
            raise ConfigError(f"option {name} needs a value, {kind}: -O {name}=…")
        if name in values:
            raise ConfigError(f"option {_dashed(name)} is given twice")
        try:
            values[name] = known[name].metadata["parse"](value.strip())
        except (PfmEdgeError, ValueError) as error:
            why = f": {error}" if isinstance(error, PfmEdgeError) else ""
            raise ConfigError(
                f"option {_dashed(name)} of target {target} must be "
                f"{known[name].metadata['kind']}, not {value!r:.80}{why}"
            ) from error
    return options(**values)


def text(value: str) -> str:
    """Read a text that is not empty."""
    if not value:
        raise ValueError("empty")
    return value


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number within bounds."""

    def parse(value: str) -> int:
        number = int(value)
        if not least <= number <= most:
            raise ValueError("out of bounds")
        return number

    return parse


def flag(value: str) -> bool:
    """Read yes or no."""
    return {"yes": True, "true": True, "no": False, "false": False}[
        choice("yes", "true", "no", "false")(value)
    ]


def choice(*allowed: str) -> Callable[[str], str]:
    """Return what reads one of some words."""

    def parse(value: str) -> str:
        if value.casefold() not in allowed:
            raise ValueError("none of them")
        return value.casefold()

    return parse


def words(value: str) -> tuple[str, ...]:
    """Read words with commas between them."""
    return tuple(text(each.strip()) for each in value.split(","))


def size_range(value: str) -> Range:
    """Read ``MIN:OPT:MAX``."""
    least, best, most = (int(each) for each in value.split(":"))
    return Range(least, best, most)


def size_ranges(value: str) -> tuple[Range, ...]:
    """Read ``MIN:OPT:MAX`` several times, with commas between them."""
    return tuple(map(size_range, value.split(",")))


def _dashed(name: str) -> str:
    """Return an option's name as documentation has it; underscores are read, too."""
    return name.replace("_", "-")


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def _unknown(target: str, key: str, known: list[str], others: Mapping[str, type]) -> str:
    name = key.strip().replace("-", "_")
    owners = [
        other for other, each in others.items() if name in {option.name for option in fields(each)}
    ]
    names = list(map(_dashed, known))
    hint = f" (target {' and '.join(owners)} does)" if owners else nearest(_dashed(name), names)
    takes = f"it takes {', '.join(names)}" if names else "it takes none"
    return f"target {target} takes no option {key.strip()!r:.80}{hint}; {takes}"
