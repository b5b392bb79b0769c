"""The power goes at any moment of a publication: devices see the old state or the new one, whole.

Every distinct disk that this may leave is made real. What is served there is asked by TUF's own
client, as devices do before the publisher is back; then the publisher's next command finishes or
drops what was under way, and the repository must be exactly the old one or exactly the new one.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import pytest

from pfm_edge._key_files import write_key_pair
from pfm_edge.ota import (
    KeyChange,
    PublisherRepository,
    Role,
    RolloutRequest,
    Signers,
    abandon,
    forget,
    publish,
    read_key,
    restore,
    rotate_key,
    sign,
)
from pfm_edge_runtime.ota.names import channel_target
from tests.support.crash_disk import Point, crash_points
from tests.support.disk_events import Recording
from tests.support.publisher import CLASS_IDS, Client, Publisher
from tests.support.recorded_disk import recorded
from tests.support.tiny_package import MODEL_ID

_EVERY = os.environ.get("PFM_EDGE_EVERY_CRASH") == "1"
_POINTS = 24  # of each scenario, the first and the last among them


def _ready(root: Path) -> Publisher:
    """Make a repository with a stable bundle and a candidate."""
    publisher = Publisher.make(root)
    publish(publisher.repository, publisher.package())
    publish(publisher.repository, publisher.package(classes=3), rollout=RolloutRequest(50))
    return publisher


def _waiting(root: Path) -> Publisher:
    """Make one with a forget that waits for its signature."""
    publisher = _ready(root)
    forget(publisher.repository, ["rose"], signers=Signers())
    return publisher


def _rotated(publisher: Publisher) -> object:
    key = read_key(str(publisher.directory / "new.pem"))
    return rotate_key(publisher.repository, Role.ROOT, KeyChange((key,), new_epoch=True))


def _with_new_key(root: Path) -> Publisher:
    publisher = _ready(root)
    write_key_pair(root / "new.pem", passphrase=None)
    publisher.repository.signers()
    return publisher


def _older(root: Path) -> Publisher:
    """Make one that was restored from a copy of before a forget."""
    publisher = _ready(root)
    repo = publisher.repository.directory
    shutil.copytree(repo, root / "copy")
    forget(publisher.repository, [CLASS_IDS["rose"]])
    shutil.rmtree(repo)
    (root / "copy").rename(repo)
    return publisher


_Prepare = Callable[[Path], Publisher]
_Run = Callable[[Publisher], object]

_SCENARIOS: Mapping[str, tuple[_Prepare, _Run]] = {
    "publish": (_ready, lambda p: publish(p.repository, p.package(classes=2))),
    "forget": (_ready, lambda p: forget(p.repository, [CLASS_IDS["rose"]])),
    "sign": (_waiting, lambda p: sign(p.repository)),
    "wait": (_ready, lambda p: forget(p.repository, ["rose"], signers=Signers())),
    "abandon": (_waiting, lambda p: abandon(p.repository)),
    "rotate": (_with_new_key, _rotated),
    "restore": (_older, lambda p: restore(p.repository)),
}
_FORGETS = {"forget", "sign", "restore"}


@pytest.mark.parametrize("name", _SCENARIOS)
def test_a_repository_survives_power_loss(name: str, tmp_path: Path) -> None:
    prepare, run = _SCENARIOS[name]
    root = tmp_path / "root"
    root.mkdir()
    publisher = prepare(root)
    publisher.package(classes=2)
    old = _state(publisher)
    with recorded(root) as recording:
        run(publisher)
    new = _state(publisher)
    assert old != new
    outcomes = set()
    for number, point in enumerate(_some(recording)):
        disk = tmp_path / f"disk-{number}"
        disk.mkdir()
        point.image.write_to(disk)
        outcomes.add(_judged(name, publisher, disk, point, (old, new), len(recording.steps)))
        shutil.rmtree(disk)
    assert outcomes == {"old", "new"}


def _judged(
    name: str,
    publisher: Publisher,
    disk: Path,
    point: Point,
    states: tuple[dict[str, bytes], dict[str, bytes]],
    steps: int,
) -> str:
    served = disk / "repo" / "public"
    client = Client(served, disk / "client", (served / "metadata/1.root.json").read_bytes())
    channel = client.channel(MODEL_ID)
    assert client.target("forget.json"), point.how
    for release in filter(None, (channel.stable, channel.candidate)):
        assert client.target(release.target), point.how
    assert client.target(channel_target(MODEL_ID)), point.how
    shutil.rmtree(disk / "client")
    _moved(disk, publisher.directory)
    found = Publisher(
        disk, PublisherRepository.open(disk / "repo", clock=publisher.clock), {}, publisher.clock
    )
    if name == "sign" and found.repository.layout.pending.exists():
        # Each of its files may have new signatures or not: what counts is that it can go on.
        before = {n: d for n, d in states[0].items() if not n.startswith("pending/")}
        assert before.items() <= _state(found).items(), point.how
        assert sign(found.repository).committed, point.how
        assert _state(found) == states[1], point.how
        return "old"
    _moved(disk, disk, publisher.directory)
    state = _state(found)
    differing = [{n for n, _ in state.items() ^ each.items()} for each in states]
    assert set() in differing, f"{point.how}: neither old nor new, by {min(differing, key=len)}"
    became = "old" if state == states[0] else "new"
    if point.steps == steps:
        assert became == "new", f"{point.how}: what was done is undone"
    if name in _FORGETS and became == "new":
        trace = publisher.trace("rose")
        assert not any(trace in each for each in point.image.remains), point.how
        assert found.holding(trace) == [], point.how
    return became


def _moved(disk: Path, *where: Path) -> None:
    """Let the settings on a copied disk name the copy's own registry, and back."""
    settings = disk / "repo" / "repository.json"
    text = settings.read_text()
    settings.write_text(text.replace(str(where[0]), str(where[-1] if len(where) > 1 else disk)))


def _state(publisher: Publisher) -> dict[str, bytes]:
    """Return all that lasts: the repository's files, the registry and the high-water mark.

    Where a new key lies is remembered before its rotation: alone, that means nothing.
    """
    found = {**publisher.files(), "registry": publisher.registry.read_bytes()}
    [mark] = publisher.directory.glob("*.ota-mark")
    found["mark"] = mark.read_bytes()
    del found["repository.json"]
    return found


def _some(recording: Recording) -> list[Point]:
    points = crash_points(recording)
    if _EVERY or len(points) <= _POINTS:
        return points
    chosen = sorted(Random(0).sample(range(1, len(points) - 1), _POINTS - 2))
    return [points[0], *(points[each] for each in chosen), points[-1]]
