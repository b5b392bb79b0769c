"""What is left of a class after an erased forget: nothing that a search can find.

Searched for: any 64 bytes in a row of the class's rows, as float32 and as float16, and its label;
in the package, the device's memory and the temporary directory, in what was logged and printed, in
the arrays and buffers that the process can still reach, and in its writable memory as a whole. The
model runs the dynamic graph, or a static one, whose rows are padded.
"""

import gc
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.forgetting import forget_classes
from tests.support.byte_windows import Marks
from tests.support.tiny_package import quarter
from tests.support.wide_package import LABELS, STATIC, WidePackage, rows_of, write_wide_package

GONE = 2


@pytest.fixture
def wide(tmp_path: Path) -> WidePackage:
    return write_wide_package(tmp_path / "model")


@pytest.fixture(params=["backbone.onnx", STATIC.file])
def model(wide: WidePackage, request: pytest.FixtureRequest) -> Classifier:
    return Classifier.open(wide.directory, threads=1, variant=request.param)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


def _marks(index: int = GONE) -> Marks:
    rows = {name: row for name, row in rows_of(index).items() if row.size > 1}
    marks = Marks.of(rows, [LABELS[index]])
    assert len(marks.rows) == 4  # two inputs, in float32 and float16
    return marks


def test_the_files(wide: WidePackage, device_state: Path, temporary: Path) -> None:
    roots = (wide.directory, device_state, temporary)
    before = {what for _, what in _marks().found_below(*roots)}
    assert {"prompt_values float32", "class_weight float32"} <= before
    model = Classifier.open(wide.directory, threads=1)
    model.predict(quarter(0))
    assert model.forget(LABELS[GONE]).erased
    assert _marks().found_below(*roots) == []
    # What stays is there, so the search would have found it.
    assert _marks(0).found_below(*roots)


def test_a_planted_copy_is_found(wide: WidePackage, device_state: Path, temporary: Path) -> None:
    forget_classes(wide.directory, [wide.ids[GONE]])
    row = rows_of(GONE)["class_weight"]
    plants = {
        device_state / "float32": row[7:23].tobytes(),  # 64 bytes, and no more
        temporary / "float16": b"odd" + row.astype(np.float16)[5:37].tobytes(),
        wide.directory / "label": b"..." + LABELS[GONE].encode() + b"...",
    }
    for path, data in plants.items():
        path.write_bytes(data)
        found = _marks().found_below(wide.directory, device_state, temporary)
        assert [name for name, _ in found] == [path.name]
        path.unlink()


def test_the_salt_and_the_entry_string_go_too(wide: WidePackage, device_state: Path) -> None:
    # Whoever had the salt could guess the label back from the digest that stays.
    import base64
    import json

    from tests.support.forge import Forge

    forge = Forge((wide.directory / "bundle.safetensors").read_bytes())
    text = forge.texts()[[parts[1] for parts in forge.entries].index(wide.ids[GONE])]
    salt = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))[0]
    forget_classes(wide.directory, [wide.ids[GONE]])
    for root in (wide.directory, device_state):
        for file in filter(Path.is_file, root.rglob("*")):
            assert salt.encode() not in file.read_bytes()
            assert text.encode() not in file.read_bytes()


def test_what_is_logged_and_printed(
    wide: WidePackage, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    model = Classifier.open(wide.directory, threads=1)
    forgotten = model.forget(LABELS[GONE])
    again = model.forget(wide.ids[GONE])
    with pytest.raises(Exception, match="no class has that id or label"):
        model.forget(LABELS[GONE])
    captured = capfd.readouterr()
    said = [caplog.text, captured.out, captured.err, repr(forgotten), repr(again), repr(model)]
    said += [forgotten.receipt or "", again.receipt or ""]
    assert not [text for text in said if LABELS[GONE] in text]


def test_the_live_tensors(model: Classifier) -> None:
    model.predict(quarter(0))
    assert _reachable(_marks())  # the search finds what a model holds
    model.forget(LABELS[GONE])
    model.predict(quarter(0))
    gc.collect()
    assert _reachable(_marks()) == []
    assert _reachable(_marks(0))


def test_the_tensors_that_a_call_still_reads_are_zeroed_when_it_ends(model: Classifier) -> None:
    with model._live.use() as snapshot:
        model.forget(LABELS[GONE])
        assert snapshot.tensors["class_weight"].any()  # a call in flight finishes on them
        assert len(model.classes) == len(LABELS) - 1
    assert not any(tensor.any() for tensor in snapshot.tensors.values())


_SCAN = """
import sys
from pathlib import Path
import numpy as np
from pfm_edge_runtime.classifier import Classifier

package, label, variant = sys.argv[1:]

def occurrences():
    # Drawn anew, used and wiped, so that the search itself leaves no copy behind.
    sys.path.insert(0, ".")
    draw = np.random.default_rng(1000 + 2)
    draw.standard_normal((2, 256), dtype=np.float32)
    row = draw.standard_normal(256, dtype=np.float32)
    key = bytes(byte ^ 0x5A for byte in row[64:80].tobytes())   # 64 bytes, disguised
    row.fill(0)
    count = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, mode = line.split()[:2]
        if not mode.startswith("rw") or "[v" in line:
            continue
        begin, end = (int(each, 16) for each in span.split("-"))
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(begin)
            try:
                data = np.frombuffer(memory.read(end - begin), np.uint8) ^ 0x5A
            except OSError:
                continue
        count += data.tobytes().count(key)
        data.fill(0)
    return count

model = Classifier.open(package, threads=1, variant=variant)
before = occurrences()
model.forget(label)
print(before, occurrences())
"""


@pytest.mark.parametrize("variant", ["backbone.onnx", STATIC.file])
def test_the_memory_of_the_process(wide: WidePackage, variant: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCAN, str(wide.directory), LABELS[GONE], variant],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before >= 1
    assert after == 0


def _reachable(marks: Marks) -> list[str]:
    """Search every array and buffer that something in this process still refers to."""
    found: list[str] = []
    seen: set[int] = set()
    front: list[object] = gc.get_objects()
    while front:
        each = front.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if type(each) in {np.ndarray, bytearray, memoryview}:
            found += marks.found_in(bytes(each) if isinstance(each, bytearray) else each.tobytes())
        front += gc.get_referents(each)  # a dictionary of arrays is not tracked by itself
    return found
