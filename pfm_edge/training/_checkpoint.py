"""A checkpoint: one safetensors file with what training changes, and nothing executable.

`model.<name>` is every trained parameter, `optimizer.<name>.<moment>` AdamW's memory of it. The
metadata says the step. A file is replaced whole or not at all; readers that only want the model
(evaluation, export) never touch the optimiser's part.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pfm_edge.errors import RunError
from pfm_edge_runtime.store import write_atomic

__all__ = ["load_checkpoint", "load_trained", "read_score", "save_checkpoint"]

_FORMAT = "pfm-checkpoint/1"
_METADATA = "pfm_checkpoint"  # one key: safetensors writes several in no particular order
_MODEL = "model."
_OPTIMIZER = "optimizer."


@dataclass(frozen=True, slots=True)
class _Contents:
    step: int
    score: float | None
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    step: int,
    score: float | None = None,
) -> None:
    """Write trained parameters and optimiser state after `step` optimiser steps, durably.

    Args:
        path: the file, replaced whole.
        model: its trained parameters are written.
        optimizer: its state is written; None leaves a model that cannot be trained on.
        step: optimiser steps behind it.
        score: what the model was selected for, where it was.

    Raises:
        StorageError: the disk refused; the previous checkpoint is intact.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(model).items():
        tensors[_MODEL + name] = parameter.detach().cpu().contiguous()
        state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
        for moment, value in state.items():
            tensors[f"{_OPTIMIZER}{name}.{moment}"] = value.detach().cpu().contiguous()
    metadata = json.dumps({"format": _FORMAT, "step": step, "score": score})
    write_atomic(path, safetensors.torch.save(tensors, {_METADATA: metadata}))


def load_trained(path: Path, model: nn.Module) -> int:
    """Load the trained parameters alone into a model of the same configuration.

    Returns:
        The number of optimiser steps behind them.

    Raises:
        RunError: missing, damaged, or of another configuration.
    """
    contents = _read(path, with_optimizer=False)
    _load_model(path, model, contents)
    return contents.step


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load model and optimiser to continue exactly where `save_checkpoint` was called.

    Raises:
        RunError: missing, damaged, or of another configuration.
    """
    contents = _read(path, with_optimizer=True)
    _load_model(path, model, contents)
    for name, parameter in _trained(model).items():
        prefix = f"{_OPTIMIZER}{name}."
        state = {
            key.removeprefix(prefix): value
            for key, value in contents.optimizer.items()
            if key.startswith(prefix)
        }
        if state:
            optimizer.state[parameter] = {
                # AdamW keeps its step counter on the CPU, its moments beside the parameter.
                moment: value if value.ndim == 0 else value.to(parameter.device)
                for moment, value in state.items()
            }
    return contents.step


def read_score(path: Path) -> float:
    """Return the score that a selected checkpoint was kept for; minus infinity if there is none.

    Raises:
        RunError: the file is damaged.
    """
    if not path.exists():
        return -math.inf
    score = _read(path, with_optimizer=False).score
    return -math.inf if score is None else score


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _read(path: Path, *, with_optimizer: bool) -> _Contents:
    model: dict[str, Tensor] = {}
    optimizer: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            document = _document(path, (file.metadata() or {}).get(_METADATA))
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                if key.startswith(_MODEL):
                    model[key.removeprefix(_MODEL)] = file.get_tensor(key)
                elif with_optimizer:
                    optimizer[key] = file.get_tensor(key)
    except FileNotFoundError:
        raise RunError(f"{path}: no checkpoint; train the run first") from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: damaged checkpoint ({error}); train again") from error
    return _Contents(document["step"], document.get("score"), model, optimizer)


def _document(path: Path, metadata: str | None) -> dict[str, Any]:
    try:
        document = json.loads(metadata or "null")
    except ValueError:
        document = None
    if (
        not isinstance(document, dict)
        or document.get("format") != _FORMAT
        or type(document.get("step")) is not int
        or not isinstance(document.get("score"), float | int | None)
    ):
        raise RunError(f"{path}: not a {_FORMAT} checkpoint; train again with this version")
    return document


def _load_model(path: Path, model: nn.Module, contents: _Contents) -> None:
    trained = _trained(model)
    expected = {name: tuple(parameter.shape) for name, parameter in trained.items()}
    found = {name: tuple(tensor.shape) for name, tensor in contents.model.items()}
    if expected != found:
        name = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise RunError(
            f"{path}: '{name}' is {found.get(name, 'absent')}, the configuration makes it "
            f"{expected.get(name, 'absent')}; the checkpoint belongs to another configuration"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(contents.model[name])
