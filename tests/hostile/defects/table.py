"""The tables of defects: a name, the step that must find it, and what forges the bytes.

What is wrong with the bytes alone is in ``DEFECTS``; what is wrong for a device that knows
something is in ``DEVICE_DEFECTS``, along with what it knows.
"""

from collections.abc import Callable

from pfm_edge_runtime.bundle import Expectation, ModelBinding
from pfm_edge_runtime.digest import digest_of
from tests.support.forge import Forge
from tests.support.tiny_package import INPUTS, MODEL_ID, build_bundle

GOOD = build_bundle(b"{}").to_bytes()
DEFECTS: dict[str, tuple[int, Callable[[], bytes]]] = {}
DEVICE_DEFECTS: dict[str, tuple[int, Callable[[], tuple[bytes, Expectation]]]] = {}
FIRST_USE = Expectation(ModelBinding(MODEL_ID, digest_of(b"{}"), INPUTS))


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
