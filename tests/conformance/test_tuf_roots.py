"""The device's client follows roots as TUF's specification says (5.3), judged from outside."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.ota_conformance import ALL_AT_1, LONG_AGO, Stage
from tests.support.ota_forge import Forge, new_signer
from tests.support.ota_server import refusing


def _without_a_version(root: Any) -> None:
    del root["signed"]["version"]


def _with_another_signature(root: Any) -> None:
    root["signatures"][0]["sig"] = "00" * 64


@pytest.mark.parametrize("spoil", [_without_a_version, _with_another_signature])
def test_a_bad_first_root_is_never_acted_upon(stage: Stage, spoil: Callable[[Any], None]) -> None:
    root = json.loads(stage.forge.path("root", 1).read_bytes())
    spoil(root)
    stage.init(json.dumps(root).encode())
    assert stage.refresh() == 1
    assert stage.asked == []


def test_every_root_on_the_way_is_asked_for(stage: Stage) -> None:
    for _ in range(4):
        stage.forge.publish_root(*stage.forge.rotate("root"))
    assert stage.refresh() == 0
    assert stage.asked[:5] == ["2.root", "3.root", "4.root", "5.root", "6.root"]
    assert stage.trusted["root"] == 5


def _signed_by_the_new_keys_only(forge: Forge) -> None:
    forge.rotate("root")
    forge.publish_root()


def _signed_by_the_old_keys_only(forge: Forge) -> None:
    old = forge.rotate("root")
    forge.signers["root"] = old
    forge.publish_root()


def _one_signature_of_two(forge: Forge) -> None:
    forge.root.add_key(new_signer().public_key, "root")
    forge.root.roles["root"].threshold = 2
    forge.publish_root()


def _a_version_left_out(forge: Forge) -> None:
    forge.root.version = 2
    data = forge.write("root")
    forge.root.version = 3
    forge.write("root")
    forge.path("root", 2).write_bytes(forge.path("root", 3).read_bytes())
    assert data


def _the_version_before(forge: Forge) -> None:
    forge.publish_root()
    forge.path("root", 2).write_bytes(forge.path("root", 1).read_bytes())


_BAD_ROOTS = [
    _signed_by_the_new_keys_only,
    _signed_by_the_old_keys_only,
    _one_signature_of_two,
    _a_version_left_out,
    _the_version_before,
]


@pytest.mark.parametrize("forging", _BAD_ROOTS)
def test_a_root_that_is_no_successor(stage: Stage, forging: Callable[[Forge], None]) -> None:
    assert stage.refresh() == 0
    forging(stage.forge)
    assert stage.refresh() == 1
    assert stage.trusted == ALL_AT_1
    assert stage.asked == ["2.root"]


@pytest.mark.parametrize(("status", "expected"), [(404, 0), (403, 0), (500, 1)])
def test_what_ends_the_search_for_roots(stage: Stage, status: int, expected: int) -> None:
    stage.server.answers["metadata/2.root.json"] = refusing(status)
    assert stage.refresh() == expected


def test_an_expired_root_is_kept_and_nothing_after_it(stage: Stage) -> None:
    assert stage.refresh() == 0
    stage.forge.root.expires = LONG_AGO
    stage.forge.publish_root()
    stage.forge.publish("targets")
    assert stage.refresh() == 1
    assert stage.trusted == {**ALL_AT_1, "root": 2}


def test_an_expired_root_on_the_way_is_no_obstacle(stage: Stage) -> None:
    stage.forge.root.expires = LONG_AGO
    stage.forge.publish_root()
    stage.forge.root.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)
    stage.forge.publish_root()
    assert stage.refresh() == 0
    assert stage.trusted["root"] == 3
