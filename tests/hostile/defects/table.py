"""The table of defects: a name, the step that must find it, and what forges the bytes."""

from collections.abc import Callable

from tests.support.forge import Forge
from tests.support.tiny_package import build_bundle

GOOD = build_bundle(b"{}").to_bytes()
DEFECTS: dict[str, tuple[int, Callable[[], bytes]]] = {}


def defect(step: int) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Enter a forger of bytes into the table; its name is the defect's."""

    def enter(forge: Callable[[], bytes]) -> Callable[[], bytes]:
        assert forge.__name__ not in DEFECTS
        DEFECTS[forge.__name__] = (step, forge)
        return forge

    return enter


def edited(step: int, name: str, edit: Callable[[Forge], None], *, seal: bool = True) -> None:
    """Enter a defect that an edit of the parts makes."""

    def forge() -> bytes:
        parts = Forge(GOOD)
        edit(parts)
        if seal:
            parts.seal()
        return parts.spell()

    forge.__name__ = name
    defect(step)(forge)
