"""`pfm-edge keys`: the keys that bundles are signed with."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli._console import can_ask, print_json, say
from pfm_edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from pfm_edge_runtime.keys import SigningKey

__all__ = ["KeyOption", "PassphraseFile", "app", "ask_passphrase", "load_signers"]

KeyOption = Annotated[
    list[Path] | None,
    typer.Option("--key", metavar="KEY.pem", help="A private key to sign with; may be repeated."),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="A file with the passphrase of the keys; asked for on a terminal."),
]

app = typer.Typer(help="Keys that bundles are signed with.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `new` a subcommand although it is the only one."""


@app.command("new")
def new_command(
    out: Annotated[
        Path, typer.Argument(metavar="OUT.pem", help="The private key; OUT.pub goes beside it.")
    ],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt it; asks for the passphrase twice.")
    ] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Encrypt it with the passphrase in this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the key id as JSON.")] = False,
) -> None:
    """Draw an Ed25519 key: the private half for this workstation alone, the public for devices.

    Example: pfm-edge keys new issuer.pem
    """
    from pfm_edge.publishing import public_path, read_passphrase, write_key_pair

    if passphrase and passphrase_file is not None:
        raise typer.BadParameter("--passphrase and --passphrase-file exclude each other")
    secret = read_passphrase(passphrase_file) if passphrase_file is not None else None
    key = write_key_pair(out, passphrase=ask_passphrase(out, twice=True) if passphrase else secret)
    public = public_path(out)
    if as_json:
        print_json({"key_id": key.key_id, "private": str(out), "public": str(public)})
    else:
        typer.echo(key.key_id)
        say(f"{out}: keep it here, and a copy in a safe place; {public}: for those who verify")


def load_signers(
    paths: Sequence[Path] | None, passphrase_file: Path | None
) -> tuple["SigningKey", ...]:
    """Read the private keys that a command names, asking for passphrases on a terminal."""
    from pfm_edge.publishing import read_passphrase, read_signing_keys

    if passphrase_file is not None and not paths:
        raise typer.BadParameter("--passphrase-file needs --key")
    passphrase = read_passphrase(passphrase_file) if passphrase_file is not None else None
    return read_signing_keys(paths or (), passphrase, ask_passphrase if can_ask() else None)


def ask_passphrase(path: Path, *, twice: bool = False) -> bytes:
    """Ask a person for a passphrase.

    Raises:
        ConfigError: There is nobody to ask.
    """
    if not can_ask():
        raise ConfigError("--passphrase asks on a terminal; use --passphrase-file here")
    answer: str = typer.prompt(
        f"Passphrase of {path}", hide_input=True, confirmation_prompt=twice, err=True
    )
    return os.fsencode(answer)  # the bytes that were typed, UTF-8 or not
