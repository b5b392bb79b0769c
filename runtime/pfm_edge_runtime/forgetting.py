"""Forgetting on the device: the bundle is rewritten without a class, durably, or nothing changes.

Owns the order of a forget on disk, and how a class is named. Everything that can fail is done
before the one step that cannot be half done::

    (forgotten,) = forget_classes(Path("model"), ["daisy"])
    forgotten.class_id, forgotten.bytes_after

No message ever repeats the name that was given: it may be the label of a class that is gone.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from unicodedata import normalize

from pfm_edge_runtime._nearest import nearest
from pfm_edge_runtime.bundle import Bundle, ClassId
from pfm_edge_runtime.erasure import replace_erasing
from pfm_edge_runtime.errors import UnknownClassError
from pfm_edge_runtime.manifest import BUNDLE_FILE
from pfm_edge_runtime.package import ModelPackage, require_directory
from pfm_edge_runtime.store import exclusive

__all__ = ["Forgotten", "PendingForget", "find_class", "forget_classes", "prepare_forget"]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of one class.

    Attributes:
        class_id: The class that was removed.
        bytes_before: Size of the bundle's file before, in bytes.
        bytes_after: And after.
        seconds: From the request until the new bundle was durable.
    """

    class_id: ClassId
    bytes_before: int
    bytes_after: int
    seconds: float


class PendingForget:
    """A forget that is ready to be committed; made by :func:`prepare_forget` only.

    Attributes:
        package: The package as it is on disk.
        class_ids: The classes that will go.
        remaining: The bundle that will take the old one's place.
    """

    def __init__(
        self, package: ModelPackage, class_ids: tuple[ClassId, ...], started: float
    ) -> None:
        self.package = package
        self.class_ids = class_ids
        self.remaining: Bundle = package.bundle.without(class_ids)
        self._bytes_before = package.bundle_bytes
        self._data = self.remaining.to_bytes()
        self._started = started

    def commit(self) -> tuple[Forgotten, ...]:
        """Replace the bundle on disk; durable when it returns.

        Raises:
            StorageError: The disk refused, and the old bundle is as it was.
        """
        path = self.package.directory / BUNDLE_FILE
        replace_erasing(path, self._data)
        seconds = perf_counter() - self._started
        return tuple(
            Forgotten(class_id, self._bytes_before, len(self._data), seconds)
            for class_id in self.class_ids
        )


@contextmanager
def prepare_forget(directory: str | Path, keys: Sequence[str]) -> Iterator[PendingForget]:
    """Hold the package, find the classes and make the new bundle; write nothing yet.

    It starts from the bundle on disk, not from one in memory: another process may have forgotten
    a class since, and that class must not come back.

    Args:
        directory: The package.
        keys: Class ids or labels.

    Raises:
        UnknownClassError: One of them names no class.
        PackageError: The package cannot be read; also ManifestError and BundleError.
        StorageError: It cannot be locked.
    """
    started = perf_counter()
    directory = Path(directory)
    require_directory(directory)
    with exclusive(directory):
        # 1. The package as it is now. The graph may be damaged: that must not stop a forget.
        package = ModelPackage.open(directory, verify_files=False)
        # 2. All the classes, before any of them goes.
        class_ids = _find_all(package.bundle, keys)
        # 3. The new bundle, in memory.
        yield PendingForget(package, class_ids, started)


def forget_classes(directory: str | Path, keys: Sequence[str]) -> tuple[Forgotten, ...]:
    """Forget classes of a package: all of them by one replacement of its bundle, or none.

    Args:
        directory: The package.
        keys: Class ids or labels; naming a class twice is no error.

    Raises:
        UnknownClassError: One of them names no class.
        StorageError: The disk refused, and the old bundle is as it was.
        PackageError: The package cannot be read; also ManifestError and BundleError.
    """
    with prepare_forget(directory, keys) as pending:
        return pending.commit()


def find_class(classes: Iterable[tuple[ClassId, str]], key: str) -> ClassId | None:
    """Return the class of that id or label, if there is one.

    Args:
        classes: Id and label of the classes to look among.
        key: A class id, or a label in any of Unicode's normal forms.

    Raises:
        UnknownClassError: ``key`` is the id of one class and the label of another.
    """
    wanted = normalize("NFC", key)
    found = {class_id for class_id, label in classes if key == class_id or wanted == label}
    if len(found) > 1:
        raise UnknownClassError("the name is both an id and a label: give the class's own id")
    return found.pop() if found else None


def _find_all(bundle: Bundle, keys: Sequence[str]) -> tuple[ClassId, ...]:
    found: dict[ClassId, None] = {}  # in order, each once
    for number, key in enumerate(keys, start=1):
        class_id = find_class(zip(bundle.class_ids, bundle.labels, strict=True), key)
        if class_id is None:
            which = f"name {number} of {len(keys)}: " if len(keys) > 1 else ""
            raise UnknownClassError(
                f"{which}no class has that id or label{nearest(key, bundle.labels)}; "
                "pfm-device classes lists them"
            )
        found[class_id] = None
    return tuple(found)
