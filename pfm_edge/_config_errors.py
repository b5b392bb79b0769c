"""What is wrong with a configuration, in the words of the person who wrote it.

Owns the way from pydantic's report to one line: dotted keys as in the file, the value as written,
the nearest known name::

    explain(error, Config)   # "training.learning_rte: unknown key; did you mean 'learning_rate'?"
"""

import json
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

__all__ = ["explain", "hint"]

_LEAST_SIMILAR = 0.7  # of difflib's ratio: "gpu" and "cpu" have 0.67, and nobody means it
_MOST_TOLD = 5
_MOST_SHOWN = 60  # characters of a value


def hint(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the known name closest to ``name``, or nothing."""
    by_folded = {each.casefold(): each for each in sorted(known)}
    found = get_close_matches(name.casefold(), by_folded, n=1, cutoff=_LEAST_SIMILAR)
    return f"; did you mean '{by_folded[found[0]]}'?" if found else ""


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """Return one line with everything that ``error`` holds against a document of ``schema``."""
    details = error.errors(include_url=False)
    told = [_explain_one(each, schema) for each in details[:_MOST_TOLD]]
    if len(details) > len(told):
        told.append(f"and {len(details) - len(told)} more")
    return "; ".join(told)


def _explain_one(detail: ErrorDetails, schema: type[BaseModel]) -> str:
    keys, model = _resolve(detail["loc"], schema)
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            problem = f"unknown key{_place(keys, model, schema)}"
        case "missing":
            problem = "missing; add it"
        case "union_tag_not_found":
            keys, problem = [*keys, "kind"], "missing; add it"
        case "union_tag_invalid":
            keys = [*keys, "kind"]
            problem = _none_of(context["tag"], context["expected_tags"])
        case "literal_error":
            problem = _none_of(value, context["expected"].replace(" or ", ", "))
        case "value_error":  # of a validator in the schema: the sentence is ours
            problem = str(context["error"])
        case _:
            problem = detail["msg"].replace("Input should be ", "must be ")
            problem = problem.replace("an object", "a section with keys")
            problem += f", not {_shown(value)}"
    return f"{'.'.join(keys)}: {problem}"


def _none_of(value: Any, expected: str) -> str:
    """Name the choices, quoted and comma-separated as pydantic has them, and the nearest."""
    near = hint(str(value), expected.replace("'", "").split(", "))
    return f"{_shown(value)} is none of {expected}{near}"


def _shown(value: Any) -> str:
    """Return the value as the file has it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def _resolve(
    location: tuple[int | str, ...], schema: type[BaseModel]
) -> tuple[list[str], type[BaseModel] | None]:
    """Return the keys as the file has them, and the model that should know the last of them.

    Pydantic's location also names the chosen member of a union, which no file does.
    """
    keys: list[str] = []
    owner: type[BaseModel] | None = schema
    members = {"": schema}
    for part in location:
        if part in members and len(members) > 1:
            owner = members[str(part)]
            members = {"": owner}
            continue
        keys.append(str(part))
        owner = members.get("")
        field = owner.model_fields.get(str(part)) if owner else None
        members = dict(_members(field)) if field else {}
    return keys, owner


def _members(field: FieldInfo) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the models that a field may hold: by tag for a union, by "" otherwise."""
    annotation: Any = field.annotation
    models = [each for each in get_args(annotation) if _is_model(each)]
    if _is_model(annotation):
        yield "", annotation
    for model in models:
        yield get_args(model.model_fields["kind"].annotation)[0], model


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _place(keys: list[str], model: type[BaseModel] | None, schema: type[BaseModel]) -> str:
    """Return a hint where an unknown key belongs: a near name beside it, or the same elsewhere."""
    near = hint(keys[-1], model.model_fields if model else ())
    if near:
        return near
    for path, kind in _all_keys(schema):
        if path == keys:
            return f"; only kind '{kind}' has it"
        if path[-1] == keys[-1]:
            return f"; did you mean '{'.'.join(path)}'?"
    return ""


def _all_keys(
    schema: type[BaseModel], above: tuple[str, ...] = (), kind: str = ""
) -> Iterator[tuple[list[str], str]]:
    for name, field in schema.model_fields.items():
        yield [*above, name], kind
        for tag, model in _members(field):
            yield from _all_keys(model, (*above, name), tag)
