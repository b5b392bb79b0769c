"""What a change does, in lines for those who sign it and for those who made it.

Owns the words. They are made of what is signed, never of what somebody wrote beside it::

    describe(change, before)     # ("forget list 3: 12 classes, ordered now: 5f0c…", …)
"""

from collections.abc import Collection, Iterator

from pfm_edge.ota._change import Change
from pfm_edge.ota._issue import channels_of, releases_of
from pfm_edge.ota._metadata import AnyMetadata, MetadataByRole
from pfm_edge.ota._roles import DELEGATED, Role
from pfm_edge_runtime._phrases import class_count
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.ota.channel import Channel, Release
from pfm_edge_runtime.ota.forget_list import ForgetList
from pfm_edge_runtime.ota.names import FORGET_FILE

__all__ = ["all_keys", "describe", "whom"]

_MOST = 20


def describe(change: Change, before: MetadataByRole) -> tuple[str, ...]:
    """Say what a change does.

    Args:
        change: The change.
        before: The metadata that is in force without it.
    """
    return (
        *_keys(change, before),
        *_forget_list(change),
        *(line for each in channels_of(change.targets) for line in _releases(each, change)),
        *_renewed(change, before),
    )


def all_keys(change: Change) -> Iterator[str]:
    """Say all keys of the roles whose keys a change states.

    For those who sign a copy: what is new in it is told by what the copy says was there before,
    and whoever had it in their hands may have changed that.
    """
    for role in Role:
        delegator = Role.TARGETS if role in DELEGATED else Role.ROOT
        if delegator in change.metadata:
            threshold, keys = _role(change.metadata[delegator], role)
            yield f"{role}: {threshold} of" + _listed(" ", _short(keys))


def _keys(change: Change, before: MetadataByRole) -> Iterator[str]:
    """Say which keys and thresholds of which roles are new, and which are gone."""
    for delegator in (each for each in (Role.ROOT, Role.TARGETS) if each in change.metadata):
        metadata, old = change.metadata[delegator], before.get(delegator)
        for role in Role:
            if (role in DELEGATED) is not (delegator is Role.TARGETS):
                continue
            threshold, keys = _role(metadata, role)
            old_threshold, old_keys = (0, set()) if old is None else _role(old, role)
            if (threshold, keys) != (old_threshold, old_keys):
                yield (
                    f"{role}: {threshold} of {len(keys)} keys must sign"
                    + _listed("; new ", _short(keys - old_keys))
                    + _listed("; gone ", _short(old_keys - keys))
                )


def _role(metadata: AnyMetadata, role: Role) -> tuple[int, set[str]]:
    found = metadata.signed.get_delegated_role(role.value)
    return found.threshold, set(found.keyids)


def _forget_list(change: Change) -> Iterator[str]:
    if FORGET_FILE in change.targets:
        found = ForgetList.parse(change.targets[FORGET_FILE], None)
        now = [each.class_id for each in found.rows if each.time == found.issued_at]
        more = f" and {len(now) - _MOST} more" if len(now) > _MOST else ""
        yield (
            f"forget list {found.number}: {class_count(len(found.rows))}"
            + _listed(", ordered now: ", now[:_MOST])
            + more
        )


def _releases(channel: Channel, change: Change) -> Iterator[str]:
    model = f"model {channel.model_id.removeprefix('sha256:')[:16]}…"
    for release in releases_of(channel):
        what = "as it was"
        if release.target in change.targets:
            what = class_count(len(Bundle.from_bytes(change.targets[release.target])))
        yield f"{model}: bundle {release.epoch}-{release.sequence}, {what}, {whom(release)}"


def whom(release: Release) -> str:
    """Say which devices a release is for."""
    rollout = release.rollout
    if rollout is None:
        return "for all devices"
    found = f"for {rollout.percent} % of the devices"
    if rollout.cohorts:
        found += f" of {', '.join(rollout.cohorts)}"
    if rollout.not_before is not None:
        found += f" from {rollout.not_before} on"
    return found + (", held" if rollout.held else "")


def _renewed(change: Change, before: MetadataByRole) -> Iterator[str]:
    for role in (each for each in Role if each in change.metadata and before):
        signed = change.metadata[role].signed
        yield f"{role}: version {signed.version}, until {signed.expires:%Y-%m-%d %H:%M} UTC"


def _listed(what: str, ids: Collection[str]) -> str:
    return what + ", ".join(sorted(ids)) if ids else ""


def _short(ids: Collection[str]) -> list[str]:
    return [f"{each[:16]}…" for each in ids]
