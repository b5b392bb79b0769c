"""What the commands of `pfm-edge ota` share: options, keys, and how an outcome is told."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli._console import can_ask, print_json, say
from pfm_edge.cli._keys import ask_passphrase
from pfm_edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from pfm_edge.ota import Outcome, PublisherRepository, Role, RoleKey, Signers

__all__ = [
    "GivenKeys",
    "Json",
    "Repository",
    "SignWith",
    "at_hand",
    "by_role",
    "keys_of",
    "open_repository",
    "report",
]

_NUMBER = re.compile(r"[1-9][0-9]{0,4}")  # of days, too: the calendar ends in 9999

Repository = Annotated[
    Path, typer.Argument(metavar="REPO", help="The publisher's directory; REPO/public is served.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
SignWith = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="A key to sign with, besides those that init was given: a file, or "
        "PUBLIC_FILE=URI; may be repeated.",
    ),
]


@dataclass(frozen=True, slots=True)
class GivenKeys:
    """The keys that a command names, and who is asked for passphrases."""

    keys: tuple["RoleKey", ...]
    ask: Callable[[Path], bytes] | None


def keys_of(names: Sequence[str], passphrase_file: Path | None) -> GivenKeys:
    """Read the keys that a command names."""
    from pfm_edge.ota import read_key

    ask: Callable[[Path], bytes] | None = ask_passphrase if can_ask() else None
    if passphrase_file is not None:
        from pfm_edge._key_files import read_passphrase

        ask = partial(_answered, read_passphrase(passphrase_file))
    return GivenKeys(tuple(read_key(name, ask) for name in names), ask)


def _answered(passphrase: bytes, _path: Path) -> bytes:
    return passphrase


def open_repository(directory: Path) -> "PublisherRepository":
    """Open a repository, and finish what a crash left undone."""
    from pfm_edge.ota import PublisherRepository

    return PublisherRepository.open(directory)


def at_hand(
    repository: "PublisherRepository", names: Sequence[str] | None, passphrase_file: Path | None
) -> "Signers":
    """Return the keys that a command can sign with.

    Raises:
        ConfigError: One that was named is a public key.
    """
    given = keys_of(names or (), passphrase_file)
    for name, key in zip(names or (), given.keys, strict=True):
        if key.source is None:
            raise ConfigError(f"{name}: it is a public key: give the private one to sign with")
    return repository.signers(given.keys, ask=given.ask)


def by_role(given: Sequence[str] | None, option: str) -> dict["Role", int]:
    """Read ROLE=N options."""
    from pfm_edge.ota import Role

    found = {}
    for each in given or ():
        role, _, number = each.partition("=")
        if role not in [*Role] or _NUMBER.fullmatch(number) is None:
            raise typer.BadParameter(
                f"{option} {each}: give ROLE=N, of the roles {', '.join(Role)}"
            )
        found[Role(role)] = int(number)
    return found


def report(outcome: "Outcome", *, as_json: bool) -> None:
    """Tell what became of a change: lines for a person, or JSON."""
    if as_json:
        print_json(outcome.as_dict())
    for line in outcome.notes if not as_json else ():
        typer.echo(line)
    if outcome.committed:
        return
    say("not published yet: the change waits for signatures")
    for missing in outcome.missing:
        say(f"  {missing}")
        for key_id in missing.key_ids:
            if key_id in outcome.unavailable:
                say(f"    key {key_id[:16]}… is not at hand: {outcome.unavailable[key_id]}")
    say("sign it with pfm-edge ota sign, here or on a copy of the folder pending elsewhere")
