"""The disk refuses any one call of a forget: one clear error, and the next command mends it."""

import shutil
from contextlib import suppress
from pathlib import Path

from pfm_edge.ota import OrderRequest, PublisherRepository, abandon, forget, publish
from pfm_edge_runtime.errors import PfmEdgeError
from tests.support.failing_disk import faults_of
from tests.support.publisher import CLASS_IDS, Client, Publisher
from tests.support.tiny_package import MODEL_ID

_EVERY_NTH = 4  # of some 250 calls


def test_a_disk_that_fails_once_leaves_old_or_new(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    publish(publisher.repository, publisher.package())
    repo, saved = publisher.repository.directory, tmp_path / "saved"
    shutil.copytree(repo, saved)
    [mark] = tmp_path.glob("*.ota-mark")
    beside = {path: path.read_bytes() for path in (publisher.registry, mark)}

    def restore() -> None:
        shutil.rmtree(repo)
        shutil.copytree(saved, repo)
        for path, data in beside.items():
            path.write_bytes(data)

    def order() -> None:
        forget(publisher.repository, [CLASS_IDS["rose"]], order=OrderRequest("7"))

    old = publisher.files()
    faults = faults_of(order)
    new = publisher.files()
    became = set()
    for fault in faults[::_EVERY_NTH]:
        restore()
        with fault.injected(), suppress(PfmEdgeError):
            order()
        client = Client(publisher.public, tmp_path / f"client-{fault}")
        assert client.bundle(MODEL_ID), fault
        abandon(PublisherRepository.open(repo))  # it waits where a key file could not be read
        state = publisher.files()
        differing = [sorted({n for n, _ in state.items() ^ each.items()}) for each in (old, new)]
        assert [] in differing, f"{fault}: {differing}"
        became.add(state == new)
        order()
        assert publisher.files() == new, fault  # and the same order again does the rest
    assert became == {False, True}
