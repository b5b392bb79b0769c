"""`pfm-edge ota sign | abandon | rotate-key | refresh`: signatures, now and later."""

from pathlib import Path
from typing import Annotated

import typer

from pfm_edge.cli._console import print_json, say
from pfm_edge.cli._keys import PassphraseFile
from pfm_edge.cli._ota_options import (
    Json,
    Repository,
    SignWith,
    at_hand,
    keys_of,
    open_repository,
    report,
)
from pfm_edge_runtime.errors import RepositoryError

__all__ = ["abandon_command", "refresh_command", "rotate_key_command", "sign_command"]


def sign_command(
    where: Annotated[
        Path, typer.Argument(metavar="REPO|PENDING", help="A repository, or a copy of its pending.")
    ],
    key: SignWith = None,
    copy: Annotated[
        Path | None,
        typer.Option("--from", metavar="PENDING", help="Take over the signatures of this copy."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Sign the change that waits, here or in a copy of it; the last signature publishes it.

    Example: pfm-edge ota sign repo --key root-2.pem
    """
    from pfm_edge import ota

    if (where / "change.json").exists():
        given = keys_of(key or (), passphrase_file)
        outcome = ota.sign_copy(where, ota.Signers(given.keys, ask=given.ask))
        report(outcome, as_json=as_json)
        say(f"bring it back: pfm-edge ota sign REPO --from {where}")
        return
    opened = open_repository(where)
    signers = at_hand(opened, key, passphrase_file)
    report(ota.sign(opened, signers, copy=copy), as_json=as_json)


def abandon_command(repository: Repository) -> None:
    """Drop the change that waits for signatures, and erase it.

    Example: pfm-edge ota abandon repo
    """
    from pfm_edge import ota

    if ota.abandon(open_repository(repository)):
        say("the change is dropped; what was published is as it was")
    else:
        say("no change waits")


def rotate_key_command(
    repository: Repository,
    role: Annotated[
        str, typer.Argument(help="root, targets, bundles, forget, snapshot or timestamp.")
    ],
    add: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A key that it gets; may be repeated.")
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="KEYID", help="A key that it loses; may be repeated."),
    ] = None,
    threshold: Annotated[int | None, typer.Option(help="How many of its keys must sign.")] = None,
    new_epoch: Annotated[
        bool,
        typer.Option("--new-epoch", help="Issue every live bundle in a new epoch: after a theft."),
    ] = False,
    key: SignWith = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Change the keys of a role, and sign anew what that makes necessary.

    Example: pfm-edge ota rotate-key repo timestamp --add new.pem --remove 5f0c6e3e9d6c
    """
    from pfm_edge import ota

    if role not in [*ota.Role]:
        raise typer.BadParameter(f"{role}: the roles are {', '.join(ota.Role)}")
    opened = open_repository(repository)
    added = keys_of(add or (), passphrase_file)
    named = keys_of(key or (), passphrase_file)
    keys = ota.KeyChange(added.keys, tuple(remove or ()), threshold, new_epoch)
    signers = opened.signers((*named.keys, *added.keys), ask=named.ask)
    report(ota.rotate_key(opened, ota.Role(role), keys, signers=signers), as_json=as_json)


def refresh_command(
    repository: Repository,
    restored: Annotated[
        bool,
        typer.Option("--restored", help="Go on from an older copy, above all that was signed."),
    ] = False,
    above: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --restored: the highest version of a timestamp that a device has seen.",
        ),
    ] = None,
    key: SignWith = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Sign anew what would expire, with the keys at hand; for a scheduler, once a day or hour.

    Puts back what is missing or altered where it is served. Exits with 1 when devices cannot go
    on (the timestamp is not signed, something has expired, or a file is lost), or where a file is
    served that may hold a class, and is none of the repository's.

    Example: pfm-edge ota refresh repo
    """
    from pfm_edge import ota

    if above is not None and not restored:
        raise typer.BadParameter("--above is for --restored: give both")
    opened = open_repository(repository)
    signers = at_hand(opened, key, passphrase_file)
    if restored:
        report(ota.restore(opened, above=above, signers=signers), as_json=as_json)
        return
    refreshed = ota.refresh(opened, signers=signers)
    if as_json:
        print_json(refreshed.as_dict())
    for line in refreshed.outcome.notes if not as_json else ():
        typer.echo(line)
    for said in (*refreshed.mended, *map(str, refreshed.left), *refreshed.lost, *refreshed.strays):
        say(said)
    if not refreshed.fresh:
        raise RepositoryError(f"{repository}: devices cannot go on updating: see the lines above")
    if refreshed.strays:
        raise RepositoryError(f"{repository}: more is served than should be: see the lines above")
