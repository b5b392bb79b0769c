"""A checkpoint: one safetensors file with what training changes, and nothing executable.

`model.<name>` is every trained parameter, `optimizer.<name>.<moment>` AdamW's memory of it. The
metadata says the step, and which class each row of prompts and head belongs to: so a class can be
taken out, once and for all::

    drop_classes(run.checkpoint, {class_id}, [each.class_id for each in run.classes])

A file is replaced whole or not at all; readers that only want the model (evaluation, export) never
touch the optimiser's part.
"""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pfm_edge.errors import RunError
from pfm_edge_runtime.erasure import OldBytes, replace_erasing
from pfm_edge_runtime.store import write_atomic

__all__ = [
    "drop_classes",
    "is_checkpoint",
    "load_checkpoint",
    "load_trained",
    "read_score",
    "save_checkpoint",
]

_FORMAT = "pfm-checkpoint/1"
_METADATA = "pfm_checkpoint"  # one key: safetensors writes several in no particular order
_MODEL = "model."
_OPTIMIZER = "optimizer."
_BY_CLASS = tuple(  # what has a row for each class
    prefix + name
    for name in ("prompts", "head.weight", "head.bias")
    for prefix in (_MODEL, _OPTIMIZER)
)


@dataclass(frozen=True, slots=True)
class _Contents:
    step: int
    score: float | None
    classes: list[str] | None  # by row; version 0.1 did not say
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    step: int,
    classes: Sequence[str],
    score: float | None = None,
) -> None:
    """Write trained parameters and optimiser state after `step` optimiser steps, durably.

    Args:
        path: the file, replaced whole.
        model: its trained parameters are written.
        optimizer: its state is written; None leaves a model that cannot be trained on.
        step: optimiser steps behind it.
        classes: class ids, by row of prompts and head.
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
    write_atomic(path, safetensors.torch.save(tensors, _metadata(step, score, classes)))


def load_trained(path: Path, model: nn.Module, classes: Sequence[str]) -> int:
    """Load the trained parameters alone into a model of the same configuration and classes.

    Returns:
        The number of optimiser steps behind them.

    Raises:
        RunError: missing, damaged, or of another configuration or other classes.
    """
    contents = _read(path, with_optimizer=False)
    _load_model(path, model, contents, classes)
    return contents.step


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, classes: Sequence[str]
) -> int:
    """Load model and optimiser to continue exactly where `save_checkpoint` was called.

    Raises:
        RunError: missing, damaged, or of another configuration or other classes.
    """
    contents = _read(path, with_optimizer=True)
    _load_model(path, model, contents, classes)
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


def is_checkpoint(path: Path) -> bool:
    """Tell whether a safetensors file is a checkpoint.

    Raises:
        RunError: it cannot be read, so nobody knows what is in it.
    """
    try:
        with safe_open(path, framework="np") as file:
            return _METADATA in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: cannot be read ({error}); remove it") from error


def drop_classes(path: Path, gone: Collection[str], began_with: Sequence[str]) -> OldBytes | None:
    """Take classes out of a checkpoint: prompts, head rows, and the optimiser's memory of both.

    The score that a selected model was kept for was measured with them: it goes, too.

    Args:
        path: the file, replaced whole, its old bytes overwritten.
        gone: class ids; those that it does not hold are no error.
        began_with: class ids by row, for a file that does not say.

    Returns:
        What was done to the old bytes; None if there was nothing to take out.

    Raises:
        RunError: damaged, or with rows for other classes.
        StorageError: the disk refused.
    """
    contents = _read(path, with_optimizer=True)
    classes = contents.classes if contents.classes is not None else list(began_with)
    kept = [row for row, each in enumerate(classes) if each not in gone]
    if len(kept) == len(classes):
        return None
    tensors = {_MODEL + name: tensor for name, tensor in contents.model.items()}
    for name, tensor in (tensors | contents.optimizer).items():
        tensors[name] = tensor
        if name.startswith(_BY_CLASS) and tensor.ndim:
            if len(tensor) != len(classes):
                raise RunError(f"{path}: '{name}' has not a row for each class; remove the file")
            tensors[name] = tensor[kept].contiguous()
    metadata = _metadata(contents.step, None, [classes[row] for row in kept])
    return replace_erasing(path, safetensors.torch.save(tensors, metadata))


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
    return _Contents(
        document["step"], document.get("score"), document.get("classes"), model, optimizer
    )


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
        or not isinstance(document.get("classes"), list | None)
    ):
        raise RunError(f"{path}: not a {_FORMAT} checkpoint; train again with this version")
    return document


def _metadata(step: int, score: float | None, classes: Sequence[str]) -> dict[str, str]:
    document = {"format": _FORMAT, "step": step, "score": score, "classes": list(classes)}
    return {_METADATA: json.dumps(document)}


def _load_model(path: Path, model: nn.Module, contents: _Contents, classes: Sequence[str]) -> None:
    if contents.classes is not None and contents.classes != list(classes):
        raise RunError(
            f"{path}: holds other classes than the run's registry names; put back the "
            "checkpoint and classes.json that belong together"
        )
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
