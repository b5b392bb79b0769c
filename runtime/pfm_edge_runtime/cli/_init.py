"""``pfm-device init``: the device's memory, and whom it trusts."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pfm_edge_runtime.cli._arguments import (
    Commands,
    add_plain_command,
    add_state_argument,
    positive,
    read_public_key_file,
)
from pfm_edge_runtime.cli._output import note, write_json, write_row
from pfm_edge_runtime.errors import ConfigError, StateError, StateMissingError

if TYPE_CHECKING:
    from pfm_edge_runtime.bundle import TrustedKeys
    from pfm_edge_runtime.state import DeviceState

__all__ = ["add_to"]

_EXAMPLE = """\
  pfm-device init --key issuer.pub
  pfm-device init --key a.pub --key b.pub --key c.pub --threshold 2
  pfm-device init --root root.json --cohort beta
  pfm-device init --replace-trust --key new-issuer.pub
"""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = add_plain_command(
        commands,
        "init",
        "Make the device's memory and its key, and set whose bundles it takes.",
        _EXAMPLE,
        _run,
    )
    add_state_argument(parser)
    _add_trust_arguments(parser)
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="take over a memory that was copied here, or lost its key: a new key, the same memory",
    )


def _add_trust_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        type=Path,
        metavar="ISSUER.pub",
        dest="keys",
        help="public key that bundles must be signed with; may be repeated; without one the "
        "device trusts on first use",
    )
    parser.add_argument(
        "--threshold",
        type=positive,
        metavar="N",
        help="how many of the keys must have signed (default: all)",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="root.json",
        help="root of the repository that updates come from; it says whose bundles to take",
    )
    parser.add_argument(
        "--cohort", metavar="NAME", help="cohort that this device is in, for rollouts"
    )
    parser.add_argument(
        "--replace-trust",
        action="store_true",
        help="set these keys, or this root, on a device that has a memory already",
    )


def _run(arguments: argparse.Namespace) -> None:
    from pfm_edge_runtime.state import default_state_directory

    trust = _trust(arguments.keys, arguments.threshold)
    root = None if arguments.root is None else _read_root(arguments.root)
    if arguments.replace_trust and trust is None and root is None:
        raise ConfigError("--replace-trust needs the new keys: add --key ISSUER.pub, or --root")
    _require_cohort(arguments.cohort)
    if arguments.adopt and trust is not None and not arguments.replace_trust:
        raise ConfigError("--adopt keeps whom the device trusts: add --replace-trust to set these")
    directory: Path = arguments.state or default_state_directory()
    state = _make(directory, trust, arguments)
    _know(state, root, arguments)
    if arguments.json:
        write_json(_as_json(state))
    else:
        _write_lines(state)


def _make(
    directory: Path, trust: "TrustedKeys | None", arguments: argparse.Namespace
) -> "DeviceState":
    """Make the memory, or change the one that is there as far as we were told to."""
    from pfm_edge_runtime.state import DeviceState

    if arguments.adopt:
        return DeviceState.adopt(directory, trust=trust)
    if arguments.replace_trust and trust is not None:
        return DeviceState.replace_trust(directory, trust)
    try:
        state = DeviceState.open(directory)
    except StateMissingError:
        bind = trust is not None or arguments.root is not None
        return DeviceState.create(directory, trust=trust, bind=bind)
    if trust not in {None, state.trust}:
        raise StateError(
            f"{directory} is there already and trusts others: add --replace-trust to set these keys"
        )
    if arguments.root is None and arguments.cohort is None:
        note(f"pfm-device: {directory} is there already; nothing changed")
    return state


def _know(state: "DeviceState", root: bytes | None, arguments: argparse.Namespace) -> None:
    """Tell the device of its repository, and of its cohort."""
    from dataclasses import replace

    from pfm_edge_runtime.state import RepositoryTrust

    cohort: str | None = arguments.cohort
    # Whoever replaces a root need not be able to read the old one.
    old = None if root is not None and arguments.replace_trust else state.repository()
    if root is None and cohort is None:
        return
    if root is not None and old is not None and old.root != root:
        raise StateError(
            f"{state.directory} knows another root already: add --replace-trust to follow this one"
        )
    if old is None and root is None:
        raise ConfigError("--cohort is for rollouts of a repository: add --root root.json")
    new = old or RepositoryTrust(root or b"")
    if cohort is not None:
        new = replace(new, cohort=cohort)
    if new != old:
        state.know_repository(new)


def _require_cohort(name: str | None) -> None:
    from pfm_edge_runtime.ota.channel import is_cohort

    if name is not None and not is_cohort(name):
        raise ConfigError("a cohort's name has 1 to 32 of a-z, 0-9 and . _ -")


def _read_root(path: Path) -> bytes:
    from pfm_edge_runtime.ota.root import read_root

    return read_root(path)


def _trust(paths: list[Path], threshold: int | None) -> "TrustedKeys | None":
    from pfm_edge_runtime.bundle import TrustedKeys

    if not paths:
        if threshold is not None:
            raise ConfigError("--threshold counts keys: add --key ISSUER.pub")
        return None
    keys = frozenset(read_public_key_file(path) for path in paths)
    if len(keys) != len(paths):
        raise ConfigError("a key is given twice: name each once")
    return TrustedKeys(len(keys) if threshold is None else threshold, keys)


def _as_json(state: "DeviceState") -> dict[str, object]:
    from pfm_edge_runtime.ota.root import root_version

    trust, repository = state.trust, state.repository()
    return {
        "state": str(state.directory),
        "device": state.device,
        "public_key": str(state.directory / "device.pub"),
        "bound": state.memory.identity.machine is not None,
        "trust": None if trust is None else {"threshold": trust.threshold, "keys": _key_ids(trust)},
        "repository": None
        if repository is None
        else {"root_version": root_version(repository.root), "cohort": repository.cohort},
    }


def _key_ids(trust: "TrustedKeys") -> list[str]:
    from pfm_edge_runtime.keys import key_id

    return sorted(key_id(each) for each in trust.keys)


def _write_lines(state: "DeviceState") -> None:
    from pfm_edge_runtime.ota.root import root_version

    write_row("state", str(state.directory))
    write_row("device", state.device)
    write_row("public key", str(state.directory / "device.pub"))
    if (repository := state.repository()) is not None:
        write_row("repository", f"root version {root_version(repository.root)}")
        if repository.cohort is not None:
            write_row("cohort", repository.cohort)
    if state.trust is None:
        first = "on first use" if repository is None else "as the repository says, once updated"
        write_row("trust", first)
    else:
        write_row("trust", f"{state.trust.threshold} of these keys")
        for each in _key_ids(state.trust):
            write_row("key", each)
    bound = state.memory.identity.machine is not None
    write_row("machine", "bound to this one" if bound else "bound to none")
