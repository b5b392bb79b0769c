"""The device's own processes: the command as it is run, beside a model that is in use."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from pfm_edge_runtime import Classifier
from tests.support.tiny_package import TinyPackage, quarter, write_tiny_package

# Whatever the device does not have must not even be asked for.
_WITHOUT_TOOLCHAIN = """
import sys

class Refuse:
    names = {"torch", "timm", "onnx", "onnxscript", "pydantic", "typer", "yaml", "safetensors"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names | {"pfm_edge", "pfm_edge_exporters"}:
            raise AssertionError(f"the runtime asked for {name}")

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def _python(code: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            _WITHOUT_TOOLCHAIN + textwrap.dedent(code),
            *arguments,
        ],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _device(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    code = "from pfm_edge_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    return _python(code, *arguments, stdin=stdin)


def test_the_commands_from_first_to_last(tiny: TinyPackage, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(quarter(1)).save(photo)

    def predicted() -> str:
        done = _device("predict", str(tiny), str(photo), "--json")
        assert (done.returncode, done.stderr) == (0, "")
        label: str = json.loads(done.stdout)["predictions"][0]["label"]
        return label

    done = _device("classes", str(tiny))
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "trusted on first use" in done.stderr  # said once
    assert predicted() == "rose"
    done = _device("forget", str(tiny), "-", "--json", stdin="rose\n")
    assert (done.returncode, done.stderr) == (0, "")
    (forgotten,) = json.loads(done.stdout)["forgotten"]
    assert (forgotten["class_id"], forgotten["erased"]) == (tiny.class_id("rose"), True)
    assert "rose" not in done.stdout
    assert predicted() != "rose"
    done = _device("forget", str(tiny), tiny.class_id("rose"), "--json")
    assert json.loads(done.stdout)["forgotten"] == [forgotten]  # no error, and the same receipt
    done = _device("forget", str(tiny), "-", stdin="rose\n")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "rose" not in done.stderr
    classes = json.loads(_device("classes", str(tiny), "--json").stdout)["classes"]
    assert sorted(each["label"] for each in classes) == ["daisy", "tulip", "violet"]


def test_a_library_user_without_the_toolchain(tiny: TinyPackage) -> None:
    code = """
        import json
        import numpy as np
        from pfm_edge_runtime import Classifier
        model = Classifier.open(sys.argv[1], threads=1)
        image = np.zeros((4, 4), np.uint8)
        first = model.predict(image)
        model.forget(first.class_id)
        second = model.predict(image)
        print(json.dumps([first.class_id, sorted(second.scores), model.embed(image).shape]))
    """
    done = _python(code, str(tiny))
    assert done.stderr.count("\n") == 1
    assert "trusted on first use" in done.stderr
    forgotten, left, shape = json.loads(done.stdout)
    assert sorted([forgotten, *left]) == list(tiny.bundle.class_ids)
    assert shape == [1, 4]


def test_a_forget_by_the_command_reaches_the_next_call_of_a_running_model(
    tiny: TinyPackage,
) -> None:
    model = Classifier.open(tiny.directory, threads=1)
    assert model.predict(quarter(0)).label == "daisy"
    assert _device("forget", str(tiny), tiny.class_id("daisy")).returncode == 0
    found = model.predict(quarter(0))
    assert found.label != "daisy"
    assert tiny.class_id("daisy") not in found.scores
    assert sorted(each.label for each in model.classes) == ["rose", "tulip", "violet"]


def test_processes_that_forget_at_once_lose_no_forget(tiny: TinyPackage) -> None:
    code = "from pfm_edge_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", _WITHOUT_TOOLCHAIN + code, "forget", str(tiny)]
    ids = [tiny.class_id(label) for label in ("daisy", "rose", "tulip")]
    running = [subprocess.Popen([*command, each], stdout=subprocess.DEVNULL) for each in ids]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert [each.label for each in Classifier.open(tiny.directory).classes] == ["violet"]
    assert len(list(tiny.directory.iterdir())) == 4


def test_a_reader_that_has_seen_enough(tiny: TinyPackage) -> None:
    command = f"'{sys.executable}' -m pfm_edge_runtime.cli classes '{tiny}' --json"
    for rest in ("| true", "> /dev/full"):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command} {rest}"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
    assert done.returncode == 1
    assert "the output cannot be written" in done.stderr
