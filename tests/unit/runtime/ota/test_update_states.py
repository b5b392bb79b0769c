"""An update from its first state to its last."""

from pathlib import Path

from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.opening import open_model
from pfm_edge_runtime.state import DeviceState
from tests.support.ota_server import FileServer
from tests.support.tiny_package import LABELS, TinyPackage, quarter
from tests.support.tuf_repository import Publisher
from tests.unit.runtime.ota.conftest import Update


def test_a_bundle_comes_over_the_network(
    update: Update, publisher: Publisher, tiny: TinyPackage, device_state: Path
) -> None:
    publisher.publish(sequence=2)
    with FileServer(publisher.public) as server:
        report = update(server.url)
        assert report.problem is None
        assert report.outcome == "updated"
        model = Classifier.open(tiny.directory)
        assert model.predict(quarter(3)).label == LABELS[3]
        before = len(server.gets)
        assert update(server.url).outcome == "up-to-date"
        assert len(server.gets) - before == 2


def test_a_bundle_comes_on_a_stick(
    update: Update, publisher: Publisher, device: DeviceState
) -> None:
    made = publisher.publish(sequence=2)
    report = update()
    assert (report.problem, report.outcome) == (None, "updated")
    assert report.place is not None
    assert report.place.statement == made.statement_digest
    assert device.memory.floors[made.model_id] == report.place
    assert update().outcome == "up-to-date"


def test_a_forget_list_comes_first(
    update: Update, publisher: Publisher, tiny: TinyPackage, device: DeviceState
) -> None:
    open_model(tiny.directory)
    publisher.forget([tiny.class_id("rose"), "ab" * 16])  # type: ignore[list-item]
    report = update()
    assert report.outcome == "failed"
    assert "no channel" in str(report.problem)
    assert report.forgotten is not None
    assert (report.forgotten.applied, report.forgotten.absent) == (1, 1)
    assert report.waiting == 2
    assert "rose" not in {each.label for each in Classifier.open(tiny.directory).classes}
