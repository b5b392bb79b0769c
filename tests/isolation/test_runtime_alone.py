"""The runtime where nothing but the runtime is installed: a wheel in an empty environment."""

import json
import textwrap

import pytest

from tests.support.environments import ROOT, RUNTIME, environment, other_python, run
from tests.support.ota_server import FileServer
from tests.support.tiny_package import write_tiny_package
from tests.support.tuf_repository import Publisher

FOREIGN = ("torch", "timm", "onnx", "onnxscript", "pydantic", "typer", "safetensors", "sklearn")
PYTHONS = ["", "3.10", "3.12"]
UPDATING = f"{ROOT / 'runtime'}[onnxruntime,ota]"


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda v: v or "this")
def device(request):
    if not request.param:
        return environment([RUNTIME])
    python = other_python(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} here")
    return environment([RUNTIME], python, constraints=False)


def execute(python, code, *arguments):
    return run([str(python), "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)])


def test_nothing_of_the_toolchain_is_installed_or_imported(device):
    code = """
        import importlib, importlib.metadata, json, pkgutil, sys
        import pfm_edge_runtime
        heavy = {"onnxruntime", "PIL", "tuf", "urllib3", "securesystemslib"}
        assert not heavy & sys.modules.keys()
        for module in pkgutil.walk_packages(pfm_edge_runtime.__path__, "pfm_edge_runtime."):
            importlib.import_module(module.name)
        assert not heavy & sys.modules.keys()
        installed = [d.metadata["Name"].lower() for d in importlib.metadata.distributions()]
        print(json.dumps([installed, sorted(sys.modules)]))
    """
    installed, imported = json.loads(execute(device, code))
    assert "pfm-edge-runtime" in installed or "pfm_edge_runtime" in installed
    assert not set(FOREIGN) & set(installed)
    assert not set(FOREIGN) & {name.partition(".")[0] for name in imported}


def test_predict_and_forget(device, tmp_path):
    package = write_tiny_package(tmp_path / "model", classes=3)
    code = """
        import json, sys
        import numpy as np
        from pfm_edge_runtime import Classifier
        model = Classifier.open(sys.argv[1])
        image = np.full((8, 8), 90, dtype=np.uint8)
        first = model.predict(image)
        model.forget(first.class_id)
        second = Classifier.open(sys.argv[1]).predict(image)
        foreign = [n for n in ("torch", "onnx", "typer", "pydantic") if n in sys.modules]
        print(json.dumps([first.class_id, second.class_id, sorted(second.scores), foreign]))
    """
    first, second, left, foreign = json.loads(execute(device, code, package))
    assert first not in left
    assert second in left
    assert len(left) == 2
    assert foreign == []


def test_the_command(device, tmp_path):
    package = write_tiny_package(tmp_path / "model", classes=2)
    command = device.with_name("pfm-device")
    classes = json.loads(run([str(command), "classes", "--json", str(package)]))["classes"]
    run([str(command), "forget", str(package), classes[0]["class_id"]])
    left = json.loads(run([str(command), "classes", "--json", str(package)]))["classes"]
    assert left == classes[1:]


def test_the_systemd_units_come_along(device):
    folder = device.parents[1] / "lib" / "systemd" / "system"
    assert sorted(path.name for path in folder.iterdir()) == [
        "pfm-device-check@.service",
        "pfm-device-update@.service",
        "pfm-device-update@.timer",
    ]


def test_an_update_needs_the_extra_and_nothing_more(tmp_path):
    oldest = other_python("3.10")  # one environment more is enough; the oldest has most to lose
    python = (
        environment([UPDATING], oldest, constraints=False) if oldest else environment([UPDATING])
    )
    tiny = write_tiny_package(tmp_path / "model")
    publisher = Publisher.create(tmp_path / "repo", tiny, lasting=True)
    publisher.publish(sequence=2)
    publisher.forget([tiny.class_id("rose"), "ab" * 16])
    (tmp_path / "root.json").write_bytes(publisher.root)
    command = str(python.with_name("pfm-device"))
    run([command, "init", "--root", str(tmp_path / "root.json")])
    with FileServer(publisher.public) as server:
        report = json.loads(run([command, "update", "--json", str(tiny), "--repo", server.url]))
    assert (report["outcome"], report["problem"]) == ("updated", None)
    installed = run([str(python), "-m", "pip", "list"]).lower().split()
    assert not set(FOREIGN) & set(installed)
    assert "pillow" not in installed
