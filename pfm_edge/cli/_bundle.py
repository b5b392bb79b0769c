"""`pfm-edge bundle`: what a bundle says, whether it is true, and who signed it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli._console import print_json, print_table, say, table
from pfm_edge.cli._keys import KeyOption, PassphraseFile, load_signers
from pfm_edge.cli._names import read_names
from pfm_edge_runtime._phrases import class_count

if TYPE_CHECKING:
    from pfm_edge.publishing import BundleFacts

__all__ = ["app"]

_Bundle = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle.safetensors, or the package it is in.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
_Out = Annotated[Path, typer.Option(help="The bundle to write; never over another.")]

app = typer.Typer(help="Prompt bundles: what they say, and who signed it.", no_args_is_help=True)


@app.command("inspect")
def inspect_command(bundle: _Bundle, as_json: _Json = False) -> None:
    """Say what a bundle states: model, place in time, signers, classes. Verifies no trust.

    Example: pfm-edge bundle inspect model
    """
    from pfm_edge.publishing import describe, read_bundle

    facts = describe(read_bundle(bundle))
    if as_json:
        print_json(facts.as_dict())
    else:
        _print_facts(bundle, facts)


@app.command("verify")
def verify_command(
    bundle: _Bundle,
    key: Annotated[
        list[Path] | None,
        typer.Option(metavar="KEY.pub", help="A public key that counts; may be repeated."),
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(help="How many of the keys must have signed; all by default.")
    ] = None,
    package: Annotated[
        Path | None, typer.Option(help="The package that it must be for; its files are checked.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Verify a bundle in eleven steps, as a new device would that trusts these keys.

    Example: pfm-edge bundle verify model --key issuer.pub --package model
    """
    from pfm_edge.publishing import describe, read_public_key, verify_bundle

    keys = [read_public_key(each) for each in key or ()]
    verified = verify_bundle(bundle, keys, threshold=threshold, package=package)
    facts = describe(verified.bundle)
    if as_json:
        print_json({"verified": True, **facts.as_dict()})
        return
    say(f"{bundle}: verified, {class_count(len(facts.classes))}, {_signed(facts)}")
    if not keys:
        say("nobody in particular had to sign it: name keys with --key")
    if package is None:
        say("it was not compared with a package: name one with --package")


@app.command("sign")
def sign_command(
    bundle: _Bundle,
    key: KeyOption = None,
    passphrase_file: PassphraseFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Write here instead of over the bundle itself.")
    ] = None,
) -> None:
    """Add signatures to a bundle; its statement and its classes stay as they are.

    Example: pfm-edge bundle sign model --key issuer.pem
    """
    from pfm_edge.publishing import describe, sign_bundle

    if not key:
        raise typer.BadParameter("name a private key with --key")
    signed = sign_bundle(bundle, load_signers(key, passphrase_file), out)
    say(f"{out or bundle}: {_signed(describe(signed))}")


@app.command("diff")
def diff_command(
    first: Annotated[Path, typer.Argument(help="A bundle, or the package it is in.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    as_json: _Json = False,
) -> None:
    """Say which classes came, went, changed or got another label from one bundle to another.

    Example: pfm-edge bundle diff model newer/bundle.safetensors
    """
    from pfm_edge.publishing import compare, read_bundle

    changes = compare(read_bundle(first), read_bundle(second)).as_dict()
    if as_json:
        print_json(changes)
        return
    for what, class_ids in changes.items():
        for class_id in class_ids:
            typer.echo(f"{what} {class_id}")
    if not any(changes.values()):
        say("the same classes, with the same tensors and labels")


@app.command("without")
def without_command(
    bundle: _Bundle,
    out: _Out,
    class_: Annotated[
        list[str],
        typer.Option("--class", metavar="ID", help="A class to leave out; - reads standard input."),
    ],
) -> None:
    """Write the bundle that lacks some classes: the very bytes that a device would be left with.

    Example: pfm-edge bundle without model --class 5f0c6e3e9d6c4b7f8a1b2c3d4e5f6071 --out b
    """
    from pfm_edge.publishing import bundle_without, write_bundle

    smaller = bundle_without(bundle, read_names(class_))
    write_bundle(smaller, out)
    say(f"{out}: {class_count(len(smaller))}; {bundle} still holds the others")


def _print_facts(path: Path, facts: "BundleFacts") -> None:
    say(f"{path}: bundle {facts.epoch}.{facts.sequence} of {facts.issued_at}, {_signed(facts)}")
    say(f"model {facts.model_id}, {len(facts.manifests)} manifests")
    for signer in facts.signers:
        say(f"key {signer}")
    rows = [[class_id, label] for class_id, label in facts.classes.items()]
    print_table(table(f"{class_count(len(rows))}, {facts.dropped} dropped", ["id", "label"], rows))


def _signed(facts: "BundleFacts") -> str:
    if facts.signatures_valid is None:
        return "not signed"
    if not facts.signatures_valid:
        return "SIGNATURES DO NOT VERIFY"
    return "signed by " + ", ".join(f"{each[:16]}…" for each in facts.signers)
