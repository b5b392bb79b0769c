"""`pfm-edge ota`: publishing bundles and forget lists for devices to fetch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli import _ota_fleet, _ota_keys
from pfm_edge.cli._console import say
from pfm_edge.cli._keys import PassphraseFile
from pfm_edge.cli._names import read_names
from pfm_edge.cli._ota_options import (
    Json,
    Repository,
    SignWith,
    at_hand,
    by_role,
    keys_of,
    open_repository,
    report,
)

if TYPE_CHECKING:
    from pfm_edge.ota import InitRequest, RolloutRequest

__all__ = ["app"]

app = typer.Typer(
    help="Over-the-air updates: a repository that any web server serves.", no_args_is_help=True
)

_DIGITS = 3  # of a number of percent

_RoleKeys = list[str] | None


def _role_key(role: str) -> object:
    return typer.Option(f"--{role}-key", metavar="KEY", help=f"A key of {role}; may be repeated.")


@app.command("init")
def init_command(
    repository: Repository,
    registry: Annotated[
        Path, typer.Option(help="The class registry of the runs whose bundles are published.")
    ],
    root_key: Annotated[_RoleKeys, _role_key("root")] = None,
    targets_key: Annotated[_RoleKeys, _role_key("targets")] = None,
    bundles_key: Annotated[_RoleKeys, _role_key("bundles")] = None,
    forget_key: Annotated[_RoleKeys, _role_key("forget")] = None,
    snapshot_key: Annotated[_RoleKeys, _role_key("snapshot")] = None,
    timestamp_key: Annotated[_RoleKeys, _role_key("timestamp")] = None,
    new_keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw all keys into DIR, for a first try.")
    ] = None,
    root_threshold: Annotated[int, typer.Option(help="How many root keys must sign.")] = 2,
    threshold: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=N", help="How many keys of another role; 1 by default."),
    ] = None,
    days: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=N", help="For how many days metadata of a role holds."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a repository: roles, keys, and an empty forget list.

    A KEY is a private key of `pfm-edge keys new`, a public key (somebody else signs then), or
    PUBLIC_FILE=URI for a key that securesystemslib reaches: KMS, PKCS#11.

    Example: pfm-edge ota init repo --registry runs/digits/classes.json --new-keys keys
    """
    from pfm_edge import ota

    names = [root_key, targets_key, bundles_key, forget_key, snapshot_key, timestamp_key]
    ask = keys_of([], passphrase_file).ask
    thresholds = {ota.Role.ROOT: root_threshold, **by_role(threshold, "--threshold")}
    if new_keys is not None:
        if any(names):
            raise typer.BadParameter("--new-keys draws all keys: leave the others out")
        ota.require_ready(repository, registry)
        keys = ota.new_keys(new_keys)
    else:
        order = [ota.Role(each) for each in ("root", "targets", "bundles", "forget")]
        order += [ota.Role.SNAPSHOT, ota.Role.TIMESTAMP]
        keys = {
            role: [ota.read_key(name, ask) for name in given or ()]
            for role, given in zip(order, names, strict=True)
        }
    request = ota.InitRequest(registry, keys, thresholds, by_role(days, "--days"))
    made, outcome = ota.init_repository(repository, request, ask=ask)
    report(outcome, as_json=as_json)
    _advise(made.directory, request, served=outcome.committed)


@app.command("publish")
def publish_command(
    repository: Repository,
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A bundle.safetensors, or its package.")
    ],
    rollout: Annotated[
        int | None, typer.Option(metavar="PERCENT", help="For so much of the fleet at first.")
    ] = None,
    cohort: Annotated[
        list[str] | None, typer.Option(help="For devices of this cohort; may be repeated.")
    ] = None,
    not_before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before: 2026-11-24T10:00:00Z.")
    ] = None,
    key: SignWith = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Publish a bundle, for all devices or for some of them at first.

    Example: pfm-edge ota publish repo model --rollout 10
    """
    from pfm_edge import ota

    opened = open_repository(repository)
    signers = at_hand(opened, key, passphrase_file)
    whom = _rollout(rollout, cohort, not_before)
    report(ota.publish(opened, bundle, rollout=whom, signers=signers), as_json=as_json)


@app.command("forget")
def forget_command(
    repository: Repository,
    class_: Annotated[
        list[str],
        typer.Option("--class", metavar="ID", help="A class id; - reads ids or labels from input."),
    ],
    reason: Annotated[
        str, typer.Option(help="consent, error, other, request or retention.")
    ] = "request",
    order: Annotated[
        str, typer.Option(metavar="ID", help="The order's number: nobody's words. Drawn if none.")
    ] = "",
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Take ids that the registry does not know.")
    ] = False,
    key: SignWith = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Order all devices to forget classes: registry, forget list and live bundles in one step.

    Example: pfm-edge ota forget repo --class 5f0c6e3e9d6c4b7f8a1b2c3d4e5f6071
    """
    from pfm_edge import ota

    request = ota.OrderRequest(order, reason)
    names = read_names(class_)
    opened = open_repository(repository)
    signers = at_hand(opened, key, passphrase_file)
    outcome = ota.forget(opened, names, order=request, unknown=unknown, signers=signers)
    report(outcome, as_json=as_json)
    say(
        "runs and exported packages hold these classes still: pfm-edge forget RUN --class ID takes "
        "them out of there, by their ids, for the registry has no labels of them any more"
    )


@app.command("rollout")
def rollout_command(
    repository: Repository,
    model: Annotated[str, typer.Argument(help="The model's id, or how it begins.")],
    to: Annotated[
        str, typer.Argument(metavar="PERCENT|hold|resume|stop", help="What becomes of it.")
    ],
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Its cohorts and its date no longer count.")
    ] = False,
    key: SignWith = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Widen, hold, resume or stop the rollout of a bundle; at 100 % it is the one for all.

    Example: pfm-edge ota rollout repo 5e5e5e 50
    """
    from pfm_edge import ota

    opened = open_repository(repository)
    signers = at_hand(opened, key, passphrase_file)
    wanted = int(to) if to.isascii() and to.isdigit() and len(to) <= _DIGITS else to
    outcome = ota.set_rollout(opened, model, wanted, everyone=everyone, signers=signers)
    report(outcome, as_json=as_json)


app.command("sign")(_ota_keys.sign_command)
app.command("abandon")(_ota_keys.abandon_command)
app.command("rotate-key")(_ota_keys.rotate_key_command)
app.command("refresh")(_ota_keys.refresh_command)
app.command("enrol")(_ota_fleet.enrol_command)
app.command("status")(_ota_fleet.status_command)


def _rollout(
    percent: int | None, cohorts: list[str] | None, not_before: str | None
) -> "RolloutRequest | None":
    from pfm_edge import ota

    if percent is None and not cohorts and not_before is None:
        return None
    return ota.RolloutRequest(100 if percent is None else percent, tuple(cohorts or ()), not_before)


def _advise(directory: Path, request: "InitRequest", *, served: bool) -> None:
    from pfm_edge.ota import Role

    roots = len(request.keys[Role.ROOT])
    if roots == request.threshold(Role.ROOT):
        say(
            f"all {roots} root keys must sign: if one is lost, no key can be replaced any more; "
            "add one more with pfm-edge ota rotate-key REPO root --add KEY"
        )
    public = directory / "public"
    when = "" if served else "once all have signed, "
    say(f"{when}serve {public}; devices start with {public / 'root.json'}")
