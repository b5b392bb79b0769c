"""Who executed what, as ONNX Runtime's profile says it.

Owns the form of that file, which is a list of events; each node that ran left one::

    operators_by_provider(Path("profile_2026-01-02.json"))
    # {"CPUExecutionProvider": {"Gemm": 48, "LayerNormalization": 25}}
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pfm_edge_runtime.errors import BackendError

__all__ = ["operators_by_provider"]

_RAN = "_kernel_time"  # ends the event of a node's execution; others tell of waiting


def operators_by_provider(profile: Path) -> Mapping[str, Mapping[str, int]]:
    """Count the nodes that ran, each once, by provider and operator; most of them first.

    Raises:
        BackendError: The profile has another form, as a later version's might.
    """
    nodes: dict[tuple[str, str], str] = {}
    try:
        events: list[dict[str, Any]] = json.loads(profile.read_text(encoding="utf-8"))
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_RAN):
                provider, operator = event["args"]["provider"], event["args"]["op_name"]
                nodes[provider, event["name"]] = operator
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BackendError(f"ONNX Runtime's profile cannot be read: {error!r}") from error
    counts: dict[str, Counter[str]] = {}
    for (provider, _), operator in nodes.items():
        counts.setdefault(provider, Counter())[operator] += 1
    return {
        provider: dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))
        for provider, found in sorted(counts.items(), key=lambda each: -each[1].total())
    }
