"""What running a model needs of the memory of this machine or container, estimated before any work.

    require_memory(attention_bytes(backbone, queries=n, keys=n), "…", "choose a smaller size")
    require_static_memory(backbone, "joint", capacity=32, batch=None)

An estimate is a lower bound: what is refused would fail after minutes, or be killed without a word.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from pfm_edge.model._attention import AttentionKind
from pfm_edge.model._blocks import Backbone
from pfm_edge_runtime.errors import ConfigError

__all__ = ["attention_bytes", "require_memory", "require_static_memory"]

_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_IMAGES = 5  # that every graph is compared with torch at
_BYTES_OF_A_SCORE = 2 * 4  # scores and shares of attention are written out, in float32
_FLOATS_OF_A_TOKEN = 56  # times the width: ONNX Runtime's arena during an export, as measured


def attention_bytes(
    backbone: Backbone, *, queries: int, keys: int, images: int | None = None
) -> int:
    """Return what the attention of one layer needs, in bytes.

    Args:
        backbone: the model.
        queries: number of tokens that attend.
        keys: number of tokens that they attend to.
        images: at once; as many as a graph is compared at by default.
    """
    heads = max((int(block.attn.num_heads) for block in backbone.blocks), default=1)
    return _BYTES_OF_A_SCORE * (images or _IMAGES) * heads * queries * keys


def require_memory(needed: float, what: str, fix: str) -> None:
    """Refuse what this machine has no memory for.

    Raises:
        ConfigError: it has not; the message begins with `what`, and ends with `fix`.
    """
    there = _memory()
    if needed > there:
        raise ConfigError(
            f"{what} needs {needed / 1e9:,.0f} GB of memory where there are {there / 1e9:,.0f}; "
            f"{fix}"
        )


def require_static_memory(
    backbone: Backbone, kind: AttentionKind, *, capacity: int, batch: int | None
) -> None:
    """Refuse a static graph that this machine could not run.

    Args:
        backbone: the model, for images of the size that is asked for.
        kind: how prompts and image meet.
        capacity: number of classes that the graph has room for.
        batch: number of images that it takes; any by default.

    Raises:
        ConfigError: it needs more memory than there is.
    """
    tokens = int(backbone.patch_embed.num_patches + getattr(backbone, "num_prefix_tokens", 0))
    keys = tokens + capacity
    queries = keys if kind == "joint" else tokens

    def needed(images: int) -> int:
        inner = 4 * _FLOATS_OF_A_TOKEN * int(backbone.embed_dim) * images * queries
        return inner + attention_bytes(backbone, queries=queries, keys=keys, images=images)

    images = batch or _IMAGES
    fix = "lower --batch" if needed(1) <= _memory() and batch else "lower --max-classes"
    what = f"a static graph for {capacity:,} classes and {images:,} images of {tokens:,} tokens"
    require_memory(needed(images), what, fix)


def _memory() -> float:
    """Return the bytes that this process may have; infinite where the system does not say."""
    try:
        there = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        there = math.inf
    return min([there, *_limits()])


def _limits() -> Iterator[float]:
    """Yield what Linux' control groups allow, a container's above all: this one and those above."""
    for line in _lines(_OWN_GROUPS):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = _GROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = Path(path.lstrip("/"))
        for each in (folder, *folder.parents):
            for limit in _lines(root / each / name):
                if limit.isdigit():  # else it is "max"
                    yield float(limit)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
