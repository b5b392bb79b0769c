"""Rollouts that widen, hold, stop and end; and what a scheduler signs anew."""

from pathlib import Path

import pytest

from pfm_edge.ota import (
    KeyChange,
    Role,
    RolloutRequest,
    forget,
    publish,
    refresh,
    rotate_key,
    set_rollout,
)
from pfm_edge.registry import change_registry
from pfm_edge_runtime.errors import ConfigError, UpdateError
from pfm_edge_runtime.ota.channel import Rollout
from tests.support.publisher import CLASS_IDS, Publisher
from tests.support.tiny_package import MODEL_ID

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher.make(tmp_path)


def _rolled_out(publisher: Publisher, request: RolloutRequest) -> Rollout:
    publish(publisher.repository, publisher.package())
    publish(publisher.repository, publisher.package(classes=3), rollout=request)
    return _rollout(publisher)


def _rollout(publisher: Publisher) -> Rollout:
    candidate = publisher.channel().candidate
    assert candidate is not None
    assert candidate.rollout is not None
    return candidate.rollout


def _sequences(publisher: Publisher) -> tuple[int | None, int | None]:
    channel = publisher.channel()
    return (
        None if channel.stable is None else channel.stable.sequence,
        None if channel.candidate is None else channel.candidate.sequence,
    )


def _served(publisher: Publisher) -> set[str]:
    found = publisher.public.rglob("*.safetensors")
    return {each.name.split(".")[1] for each in found}


def test_a_wider_rollout_includes_all_that_were_included(publisher: Publisher) -> None:
    narrow = _rolled_out(publisher, RolloutRequest(10))
    set_rollout(publisher.repository, MODEL_ID, 50)
    wide = _rollout(publisher)
    assert (wide.percent, wide.salt) == (50, narrow.salt)
    devices = [f"{number:064x}" for number in range(500)]
    now = "2026-11-24T10:00:00Z"
    included = [
        {each for each in devices if rollout.includes(each, cohort=None, now=now)}
        for rollout in (narrow, wide)
    ]
    assert included[0] < included[1]


def test_a_rollout_is_held_and_resumed(publisher: Publisher) -> None:
    _rolled_out(publisher, RolloutRequest(10))
    set_rollout(publisher.repository, "5e5e5e", "hold")
    assert _rollout(publisher).held
    set_rollout(publisher.repository, "5e5e5e", 100)
    assert _rollout(publisher).held  # nobody is surprised by a release that was held
    set_rollout(publisher.repository, "5e5e5e", "resume")
    assert _sequences(publisher) == (2, None)


def test_a_hundred_percent_makes_the_candidate_stable(publisher: Publisher) -> None:
    _rolled_out(publisher, RolloutRequest(10))
    assert _served(publisher) == {"1-1", "1-2"}
    set_rollout(publisher.repository, MODEL_ID, 100)
    assert _sequences(publisher) == (2, None)
    assert _served(publisher) == {"1-2"}
    assert len(publisher.client().bundle(MODEL_ID).class_ids) == 3


@pytest.mark.parametrize(
    "request_",
    [RolloutRequest(10, ("lab",)), RolloutRequest(10, not_before="2999-01-01T00:00:00Z")],
)
def test_a_hundred_percent_of_some_is_not_everybody(
    publisher: Publisher, request_: RolloutRequest
) -> None:
    _rolled_out(publisher, request_)
    set_rollout(publisher.repository, MODEL_ID, 100)
    assert _rollout(publisher).percent == 100
    set_rollout(publisher.repository, MODEL_ID, 100, everyone=True)
    assert _sequences(publisher) == (2, None)


def test_a_stop_is_the_stable_classes_after_the_candidate(publisher: Publisher) -> None:
    _rolled_out(publisher, RolloutRequest(10))
    set_rollout(publisher.repository, MODEL_ID, "stop")
    assert _sequences(publisher) == (3, None)
    assert _served(publisher) == {"1-3"}
    assert len(publisher.client().bundle(MODEL_ID).class_ids) == 4


def test_another_publication_ends_a_rollout(publisher: Publisher) -> None:
    _rolled_out(publisher, RolloutRequest(10))
    publish(publisher.repository, publisher.package())
    assert _sequences(publisher) == (3, None)


def test_a_first_bundle_may_be_rolled_out_too(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package(), rollout=RolloutRequest(10))
    assert _sequences(publisher) == (None, 1)
    with pytest.raises(UpdateError, match="no stable bundle"):
        set_rollout(publisher.repository, MODEL_ID, "stop")
    forget(publisher.repository, ["rose"])
    assert _sequences(publisher) == (None, 2)


@pytest.mark.parametrize(
    ("model", "to", "match"),
    [
        ("5e5e5e", "faster", "hold, resume or stop"),
        ("abcdef", 50, "no model"),
        ("5e", 50, "6 digits"),
        ("5e5e5e", 0, "1 to 100"),
        ("5e5e5e", 101, "1 to 100"),
    ],
)
def test_what_makes_no_sense_is_refused(
    publisher: Publisher, model: str, to: int | str, match: str
) -> None:
    _rolled_out(publisher, RolloutRequest(10))
    before = publisher.files()
    with pytest.raises((ConfigError, UpdateError), match=match):
        set_rollout(publisher.repository, model, to)
    assert publisher.files() == before


def test_a_model_without_a_rollout_has_none_to_change(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package())
    with pytest.raises(UpdateError, match="no rollout"):
        set_rollout(publisher.repository, MODEL_ID, 50)


def test_a_rollout_widens_no_bundle_with_a_class_that_was_forgotten_here(
    publisher: Publisher,
) -> None:
    _rolled_out(publisher, RolloutRequest(10))
    rose = CLASS_IDS["rose"]
    change_registry(publisher.registry, lambda known: known.without([rose]))
    before = publisher.files()
    with pytest.raises(UpdateError, match=f"class {rose}.*pfm-edge ota forget REPO"):
        set_rollout(publisher.repository, MODEL_ID, 50)
    assert publisher.files() == before
    set_rollout(publisher.repository, MODEL_ID, "hold")  # gives nobody anything
    with pytest.raises(UpdateError, match="pfm-edge ota forget REPO"):
        set_rollout(publisher.repository, MODEL_ID, "resume")
    forget(publisher.repository, [rose])
    set_rollout(publisher.repository, MODEL_ID, "resume")
    set_rollout(publisher.repository, MODEL_ID, 50)
    assert _rollout(publisher).percent == 50


# --- refresh ------------------------------------------------------------------------------------


def _due_after(publisher: Publisher, days: float) -> set[str]:
    publisher.clock.forward(days)
    return {*map(str, refresh(publisher.repository).signed)}


def test_a_refresh_signs_what_would_expire_and_no_more(publisher: Publisher) -> None:
    assert _due_after(publisher, 1) == {"timestamp"}
    assert _due_after(publisher, 15) == {"timestamp", "snapshot"}
    assert _due_after(publisher, 110) == {"timestamp", "snapshot", "bundles"}
    everything = {*map(str, Role)}
    assert _due_after(publisher, 120) == everything
    assert publisher.client().target("forget.json")


def test_a_refresh_after_a_long_pause_starts_devices_again(publisher: Publisher) -> None:
    publisher.clock.forward(2000)
    refreshed = refresh(publisher.repository)
    assert refreshed.fresh
    assert {*refreshed.signed} == {*Role}


def test_a_refresh_says_what_it_cannot_sign(publisher: Publisher) -> None:
    for key in publisher.keys[Role.ROOT]:
        Path(key.source or "").unlink()
    publisher.clock.forward(300)
    refreshed = refresh(publisher.repository)
    assert refreshed.fresh  # there is time yet
    [left] = refreshed.left
    assert (left.role, left.expired) == (Role.ROOT, False)
    assert "2 more of the keys" in str(left)
    publisher.clock.forward(80)
    refreshed = refresh(publisher.repository)
    assert not refreshed.fresh
    assert [str(each).startswith("root expired on") for each in refreshed.left] == [True]


def test_a_refresh_without_the_online_keys_publishes_nothing(publisher: Publisher) -> None:
    Path(publisher.keys[Role.TIMESTAMP][0].source or "").unlink()
    before = publisher.files()
    refreshed = refresh(publisher.repository)
    assert not refreshed.fresh
    assert publisher.files() == before


def test_a_refresh_leaves_alone_what_waits(publisher: Publisher) -> None:
    lost = publisher.keys[Role.TARGETS][0]
    Path(lost.source or "").unlink()
    rotate_key(publisher.repository, Role.FORGET, KeyChange(remove=(), new_epoch=True))
    publisher.clock.forward(300)
    left = {each.role: each.reason for each in refresh(publisher.repository).left}
    assert "waits for signatures" in left[Role.FORGET]


def test_old_metadata_goes_and_every_root_stays(publisher: Publisher) -> None:
    for _ in range(14):
        rotate_key(publisher.repository, Role.ROOT, KeyChange(new_epoch=True))
        publisher.clock.forward(16)
        refresh(publisher.repository)
    names = {each.name for each in (publisher.public / "metadata").iterdir()}
    assert {f"{number}.root.json" for number in range(1, 16)} <= names
    assert len([each for each in names if each.endswith(".snapshot.json")]) == 10
    first = (publisher.public / "metadata/1.root.json").read_bytes()
    assert first
    assert publisher.client().target("forget.json")
