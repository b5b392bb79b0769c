"""A restored repository and its copies: what waits, what others signed meanwhile, snapshots."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pfm_edge.ota import (
    PublisherRepository,
    Signers,
    abandon,
    forget,
    publish,
    refresh,
    restore,
    sign,
)
from pfm_edge.ota._journal import store
from pfm_edge_runtime.errors import RepositoryError
from tests.support.publisher import CLASS_IDS, Publisher
from tests.support.tiny_package import MODEL_ID

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

VIOLET = CLASS_IDS["violet"]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Return a repository that has published a bundle."""
    made = Publisher.make(tmp_path)
    publish(made.repository, made.package())
    return made


def _copy(publisher: Publisher) -> PublisherRepository:
    """Return a second copy of the repository, with the same registry."""
    place = shutil.copytree(publisher.repository.directory, publisher.directory / "second")
    return PublisherRepository(place, publisher.clock)


def _wait_restored(publisher: Publisher) -> None:
    """Let a change wait that goes on from an older copy."""
    put_back = publisher.backup()
    forget(publisher.repository, [VIOLET])
    put_back()
    assert not restore(publisher.repository, signers=Signers()).committed


def test_a_restored_change_is_signed_in_one_copy_only(publisher: Publisher) -> None:
    _wait_restored(publisher)
    second = _copy(publisher)
    assert sign(publisher.repository).committed
    with pytest.raises(RepositoryError, match=r"more was signed .*ota abandon .*--restored"):
        sign(second)
    assert not second.layout.committing.exists()
    assert abandon(second)
    assert restore(second).committed


def test_a_change_that_another_copy_outdoes_meanwhile_is_not_said_to_be_published(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = _copy(publisher)

    def stored(*given: Any, **options: Any) -> None:
        store(*given, **options)
        patched.setattr("pfm_edge.ota._repository.store", store)
        for _ in range(2):
            refresh(second)

    with monkeypatch.context() as patched:
        patched.setattr("pfm_edge.ota._repository.store", stored)
        with pytest.raises(RepositoryError, match=r"another copy .* nothing of this is published"):
            refresh(publisher.repository)
    assert restore(publisher.repository).committed
    assert publisher.client().bundle(MODEL_ID)
