"""The channel: one spelling, and the same devices for everybody who asks."""

import json
from collections import Counter
from typing import Any

import pytest

from pfm_edge_runtime.bundle import Place, StatementDigest
from pfm_edge_runtime.errors import ChannelError, RepositoryError
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota._releases import choose
from pfm_edge_runtime.ota.channel import Channel, Release, Rollout, share_of
from pfm_edge_runtime.ota.names import bundle_target, channel_target

MODEL = ModelId("sha256:" + "5e" * 32)
SALT = "00112233445566778899aabbccddeeff"
DEVICE = "ab" * 32
NOW = "2026-11-24T10:00:00Z"


def release(sequence: int, rollout: Rollout | None = None, *, epoch: int = 1) -> Release:
    target = bundle_target(MODEL, epoch, sequence)
    return Release(epoch, sequence, StatementDigest(f"{sequence:064x}"), target, rollout)


EARLIER = StatementDigest("e" * 64)
ROLLOUT = Rollout(10, SALT, NOW, ("beta", "gamma")).after(EARLIER)
CHANNEL = Channel(MODEL, release(7), release(8, ROLLOUT))
TEXT = (
    b'{"candidate":{"epoch":1,"rollout":{"cohorts":["beta","gamma"],"follows":["'
    + b"e" * 64
    + b'"],"held":false,'
    b'"not_before":"2026-11-24T10:00:00Z","percent":10,'
    b'"salt":"00112233445566778899aabbccddeeff"},"sequence":8,"statement":"'
    + b"8".rjust(64, b"0")
    + b'","target":"bundles/'
    + b"5e" * 32
    + b'/1-8.safetensors"},"format":"pfm-channel/1","model_id":"sha256:'
    + b"5e" * 32
    + b'","stable":{"epoch":1,"sequence":7,"statement":"'
    + b"7".rjust(64, b"0")
    + b'","target":"bundles/'
    + b"5e" * 32
    + b'/1-7.safetensors"}}'
)


def test_the_names() -> None:
    assert channel_target(MODEL) == f"channel/{'5e' * 32}.json"
    assert bundle_target(MODEL, 2, 3) == f"bundles/{'5e' * 32}/2-3.safetensors"


def test_there_and_back() -> None:
    assert CHANNEL.to_bytes() == TEXT
    assert Channel.parse(TEXT) == CHANNEL
    assert Channel.parse(Channel(MODEL).to_bytes()) == Channel(MODEL)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], "pfm-channel/2"),
        (["model_id"], "sha256:5e"),
        (["more"], 1),
        (["stable"], None),  # fine by itself: a candidate may be first; see below
        (["stable", "more"], 1),
        (["stable", "epoch"], 0),
        (["stable", "sequence"], 8),
        (["stable", "statement"], "00"),
        (["stable", "target"], "bundles/../../etc/passwd"),
        (["stable", "rollout"], {"percent": 1}),
        (["candidate", "rollout", "percent"], 0),
        (["candidate", "rollout", "percent"], 101),
        (["candidate", "rollout", "percent"], True),
        (["candidate", "rollout", "salt"], "00"),
        (["candidate", "rollout", "not_before"], "tomorrow"),
        (["candidate", "rollout", "cohorts"], ["gamma", "beta"]),
        (["candidate", "rollout", "cohorts"], ["beta", "beta"]),
        (["candidate", "rollout", "cohorts"], ["Beta"]),
        (["candidate", "rollout", "held"], 0),
        (["candidate", "rollout", "follows"], ["e"]),
        (["candidate", "rollout", "follows"], ["e" * 64] * 51),
        (["candidate", "sequence"], 6),
    ],
)
def test_what_is_no_channel(path: list[str], value: object) -> None:
    changed: Any = json.loads(TEXT)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    text = json.dumps(changed, separators=(",", ":"), sort_keys=True).encode()
    if path == ["stable"]:
        assert Channel.parse(text).stable is None
        return
    with pytest.raises(ChannelError):
        Channel.parse(text)


@pytest.mark.parametrize(
    "text", [b"", b"[]", TEXT + b" ", TEXT.replace(b'":1', b'": 1', 1), b"\xff"]
)
def test_what_is_no_canonical_json(text: bytes) -> None:
    with pytest.raises(ChannelError):
        Channel.parse(text)


def test_the_share_of_a_device_is_what_the_page_says() -> None:
    # sha256("00112233…ff" + "ab" * 32), as sha256sum gives it, modulo 10,000
    import hashlib

    digest = hashlib.sha256((SALT + DEVICE).encode()).hexdigest()
    assert share_of(SALT, DEVICE) == int(digest, 16) % 10_000
    counts = Counter(share_of(SALT, f"{number:064x}") < 1000 for number in range(2000))
    assert 150 < counts[True] < 250  # ten percent of two thousand, as the hash has it
    grown = [
        {n for n in range(500) if Rollout(p, SALT).includes(f"{n:064x}", cohort=None, now=NOW)}
        for p in (10, 50, 100)
    ]
    assert grown[0] < grown[1] < grown[2] == set(range(500))


@pytest.mark.parametrize(
    ("rollout", "cohort", "included"),
    [
        (Rollout(100, SALT), None, True),
        (Rollout(100, SALT, held=True), None, False),
        (Rollout(100, SALT, "2026-11-24T10:00:01Z"), None, False),
        (Rollout(100, SALT, NOW), None, True),
        (Rollout(100, SALT, None, ("beta",)), None, False),
        (Rollout(100, SALT, None, ("beta",)), "beta", True),
        (Rollout(100, SALT, None, ("beta",)), "gamma", False),
    ],
)
def test_whom_a_rollout_includes(rollout: Rollout, cohort: str | None, included: bool) -> None:
    assert rollout.includes(DEVICE, cohort=cohort, now=NOW) == included
    channel = Channel(MODEL, release(1), release(2, rollout))
    found = channel.release_for(DEVICE, cohort=cohort, now=NOW)
    assert found == (channel.candidate if included else channel.stable)


@pytest.mark.parametrize("rollout", [Rollout(100, SALT, None, ("x",)), Rollout(1, SALT, held=True)])
def test_who_has_the_candidate_keeps_to_it(rollout: Rollout) -> None:
    candidate = release(9, rollout.after(EARLIER).after(release(8).statement))
    channel = Channel(MODEL, release(7), candidate)
    for installed in (EARLIER, release(8).statement, candidate.statement):
        found = channel.release_for(DEVICE, cohort=None, now=NOW, installed=installed)
        assert found == candidate
    for other in (None, release(7).statement):
        found = channel.release_for(DEVICE, cohort=None, now=NOW, installed=other)
        assert found == channel.stable
    for _ in range(100):
        rollout = rollout.after(EARLIER)
    assert len(rollout.follows) == 50


OPEN, SHUT, HELD = Rollout(100, SALT), Rollout(100, SALT, None, ("x",)), Rollout(1, SALT, held=True)


@pytest.mark.parametrize(
    ("stable", "candidate", "floor", "sound", "outcome", "taken"),
    [
        (2, None, None, False, "updated", 2),
        (2, None, 1, True, "updated", 2),
        (2, None, 2, True, "up-to-date", None),
        (2, None, 2, False, "updated", 2),  # what lies there is damaged
        (2, None, 3, True, "up-to-date", None),
        (2, None, 3, False, "up-to-date", None),  # … and an older one would be refused
        (2, (3, OPEN), 2, True, "updated", 3),
        (2, (3, OPEN), 3, True, "up-to-date", None),
        (2, (3, SHUT), 2, True, "not-included", None),
        (2, (3, SHUT), 1, True, "updated", 2),
        (2, (3, SHUT), 3, True, "up-to-date", None),
        (2, (3, HELD), 2, True, "held-back", None),
        (None, (3, SHUT), None, True, "not-included", None),
        (None, (3, OPEN), None, True, "updated", 3),
        (None, None, None, True, "up-to-date", None),
    ],
)
def test_what_a_device_takes(
    stable: int | None,
    candidate: tuple[int, Rollout] | None,
    floor: int | None,
    sound: bool,
    outcome: str,
    taken: int | None,
) -> None:
    channel = Channel(
        MODEL,
        None if stable is None else release(stable),
        None if candidate is None else release(*candidate),
    )
    place = None if floor is None else release(floor).place
    found = choose(channel, device=DEVICE, cohort=None, now=NOW, floor=place, sound=sound)
    assert (found[0], found[1] and found[1].sequence) == (outcome, taken)


def test_a_new_epoch_is_above_any_sequence() -> None:
    channel = Channel(MODEL, release(1, epoch=2))
    floor = Place(1, 2**31, StatementDigest("a" * 64))
    found = choose(channel, device=DEVICE, cohort=None, now=NOW, floor=floor, sound=True)
    assert found[1] is not None
    with pytest.raises(RepositoryError, match="states two bundles"):
        choose(
            channel,
            device=DEVICE,
            cohort=None,
            now=NOW,
            floor=Place(2, 1, StatementDigest("a" * 64)),
            sound=True,
        )
