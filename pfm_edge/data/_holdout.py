"""Which images are held out: a function of their names, of nothing else.

Owns the draw. An image's place in it is a hash of the seed, its label and its name, so the split
does not depend on the order of the file system or on a library's generator, and a class has the
same split whether or not another class is there: what a leave-one-class-out comparison needs::

    held_out(["a.jpg", "b.jpg", "c.jpg"], "daisy", fraction=0.3, seed=0)     # {"a.jpg"}
"""

import unicodedata
from collections.abc import Sequence
from hashlib import sha256

__all__ = ["held_out"]


def held_out(names: Sequence[str], label: str, *, fraction: float, seed: int) -> frozenset[str]:
    """Draw the images of one class that are held out.

    Args:
        names: Of its images, each once; at least two.
        label: Of the class.
        fraction: Share that is held out, rounded to a whole number of images; at least one image
            is, and at least one is not.
        seed: Draws another split.
    """
    count = min(max(round(len(names) * fraction), 1), len(names) - 1)
    ranked = sorted(names, key=lambda name: (_rank(seed, label, name), name))
    return frozenset(ranked[:count])


def _rank(seed: int, label: str, name: str) -> bytes:
    # File systems spell one name in two normal forms.
    name = unicodedata.normalize("NFC", name)
    # Neither a label nor a name can hold a null character: no two triples share a text.
    return sha256(f"{seed}\0{label}\0{name}".encode("utf-8", "surrogateescape")).digest()
