"""What a device may be doing when the power goes: each with how its disk looked before.

Owns the operations that the crash tests interrupt. All of them act on one directory, so that it
can be recorded, copied and compared::

    scenario = SCENARIOS["forget"]
    scenario.prepare(root)       # root/model and root/state
    scenario.run(root)           # what is interrupted
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pfm_edge_runtime.bundle import Bundle, ClassId
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.forgetting import Forgotten, forget_classes
from pfm_edge_runtime.opening import OpenModel, install_bundle, open_model
from pfm_edge_runtime.ota._obeying import Obeyed, obey
from pfm_edge_runtime.ota.forget_list import ForgetList, ForgetRow
from pfm_edge_runtime.state import DeviceState
from tests.support.tiny_package import (
    INPUTS,
    ISSUED_AT,
    LABELS,
    MODEL_ID,
    build_bundle,
    class_tensors,
    entries,
    write_tiny_package,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """An operation, and what may be true of the disk while it is under way.

    Attributes:
        prepare: Makes ``model`` and, unless that is the operation, ``state`` in a directory.
        run: Does it. It may be done again after any interruption.
        forgotten: The labels that it forgets.
        gone: Labels that were forgotten before it.
        installs: Whether it puts :func:`newer_bundle` in the place of the old one.
        classes: How many of the labels the package's first bundle has.
    """

    prepare: Callable[[Path], object]
    run: Callable[[Path], Any]
    forgotten: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    installs: bool = False
    classes: int = len(LABELS)

    @property
    def replaced(self) -> tuple[str, ...]:
        """Labels whose old rows go, though nobody forgot them: the new bundle lacks these rows."""
        return ("tulip", "violet") if self.installs else ()

    def issued(self, root: Path) -> tuple[Bundle, ...]:
        """Return every bundle that was issued, whole; the first is the package's first."""
        manifest = (root / "model" / "manifest.json").read_bytes()
        return build_bundle(manifest, LABELS[: self.classes]), newer_bundle(root)


_TIME = "2026-11-24T10:00:00Z"
_IDS = {each.label: each.class_id for each in entries()}


def class_id(label: str) -> ClassId:
    """Return the id that the class of that label has in every bundle here."""
    return _IDS[label]


def newer_bundle(root: Path) -> Bundle:
    """Issue what comes after the package's first bundle: tulip trained again, violet dropped."""
    kept = [
        replace(each, tensors=class_tensors(7), salt="7" * 32) if each.label == "tulip" else each
        for each in entries(LABELS[:3])
    ]
    return Bundle.build(
        model_id=MODEL_ID,
        manifest_digests=[digest_of((root / "model" / "manifest.json").read_bytes())],
        inputs=INPUTS,
        entries=kept,
        issued_at=ISSUED_AT,
        sequence=2,
    )


def obey_list(root: Path, *labels: str, unknown: int = 1) -> Obeyed:
    """Obey a forget list that names these classes, and some that are nowhere."""
    elsewhere = [ClassId(f"{number:032x}") for number in range(10_000, 10_000 + unknown)]
    gone = sorted([*map(class_id, labels), *elsewhere])
    rows = tuple(ForgetRow(each, f"order-{each[-4:]}", "request", _TIME) for each in gone)
    found = ForgetList(1, _TIME, rows, "ab" * 32)
    return obey(root / "model", DeviceState.open(root / "state"), found)


def open_root(root: Path) -> OpenModel:
    """Open the model as a device does after the power came back."""
    return open_model(root / "model", state=root / "state")


def forget(root: Path, *labels: str) -> tuple[Forgotten, ...]:
    """Forget classes by their ids, which holds whether they are still there or not."""
    return forget_classes(root / "model", [*map(class_id, labels)], state=root / "state")


def _package(root: Path, classes: int = len(LABELS)) -> None:
    write_tiny_package(root / "model", classes=classes)


def _device(root: Path, *gone: str, classes: int = len(LABELS)) -> None:
    _package(root, classes)
    open_root(root)
    if gone:
        forget(root, *gone)


def _old_copy(root: Path) -> None:
    """Put the bundle back that knew what was forgotten: a restored backup."""
    write_tiny_package(root / "backup")
    _device(root, "rose")
    (root / "backup" / "bundle.safetensors").replace(root / "model" / "bundle.safetensors")
    for path in sorted((root / "backup").iterdir()):
        path.unlink()
    (root / "backup").rmdir()


def _install(root: Path) -> OpenModel:
    data = newer_bundle(root).to_bytes()
    return install_bundle(root / "model", data, state=root / "state")


SCENARIOS: Mapping[str, Scenario] = {
    "first use": Scenario(_package, open_root),
    "forget": Scenario(_device, lambda root: forget(root, "rose"), ("rose",)),
    "forget another": Scenario(
        lambda root: _device(root, "daisy"),
        lambda root: forget(root, "rose"),
        ("rose",),
        ("daisy",),
    ),
    "forget two": Scenario(
        _device, lambda root: forget(root, "rose", "violet"), ("rose", "violet")
    ),
    "forget the last": Scenario(
        lambda root: _device(root, classes=1),
        lambda root: forget(root, "daisy"),
        ("daisy",),
        classes=1,
    ),
    "install": Scenario(_device, _install, installs=True),
    "install what holds a forgotten class": Scenario(
        lambda root: _device(root, "rose"), _install, gone=("rose",), installs=True
    ),
    "obey a forget list": Scenario(_device, lambda root: obey_list(root, "rose"), ("rose",)),
    "open an old copy": Scenario(_old_copy, open_root, gone=("rose",)),
}
"""By name. A class is forgotten in the run, before it, or never."""
