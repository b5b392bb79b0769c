"""YAML without its surprises: what a configuration may be written in.

Owns the dialect: the scalars of YAML 1.2's core schema, so that ``1e-3`` is a number and ``no`` is
text; keys are text and stand once; no anchors to expand, no tags that make objects, no NaN::

    parse_yaml("training: {learning_rate: 1e-3}", "digits.yaml")
    # {"training": {"learning_rate": 0.001}}

``dump_yaml`` writes what ``parse_yaml`` reads back to an equal document.
"""

import math
import re
from typing import Any, ClassVar, NoReturn

import yaml
from yaml.composer import ComposerError
from yaml.constructor import BaseConstructor, ConstructorError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode

from pfm_edge_runtime.errors import ConfigError

__all__ = ["dump_yaml", "parse_yaml"]

_TAG = "tag:yaml.org,2002:"
_MAX_DIGITS = 40  # of a number; Python refuses to read 4,301
# YAML 1.2.2, section 10.3.2 (core schema), less octal and hexadecimal integers.
_CORE = (
    ("null", re.compile(r"(?:null|Null|NULL|~|)\Z"), [*"nN~", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), [*"tTfF"]),
    ("int", re.compile(r"[-+]?[0-9]+\Z"), [*"-+0123456789"]),
    (
        "float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        [*"-+.0123456789"],
    ),
)
_KEPT = ("null", "bool", "str", "seq", "map")  # constructors that are right as they are


def parse_yaml(text: str, where: str) -> Any:
    """Parse one YAML document into mappings, lists, text, numbers, booleans and ``None``.

    Args:
        text: The document.
        where: What to call it in an error.

    Raises:
        ConfigError: It is no YAML of this dialect; names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a subclass of SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        reason = error.problem or error.context
        raise ConfigError(f"{where}{line}: {reason}") from error
    except yaml.YAMLError as error:  # characters that YAML excludes
        raise ConfigError(f"{where}: not YAML ({' '.join(str(error).split())})") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply to be a configuration") from error


def dump_yaml(document: Any) -> str:
    """Write a document in block style, keys in their order: equal documents give equal text."""
    return yaml.dump(
        document,
        Dumper=_Dumper,
        allow_unicode=True,
        default_flow_style=False,
        sort_keys=False,
        width=100,
    )


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the stubs have it so)
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (None, *(_TAG + name for name in _KEPT))
    }

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, "aliases are not used here: repeat the value", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                _refuse(key_node, f"key {key!r} is no text: put it in quotes")
            if key in seen:
                _refuse(key_node, f"key '{key}' stands twice: remove one")
            seen.add(key)
        # Past SafeConstructor's, which would expand "<<".
        return BaseConstructor.construct_mapping(self, node, deep=deep)

    def construct_int(self, node: ScalarNode) -> int:
        if len(node.value) > _MAX_DIGITS:
            _refuse(node, f"a number of more than {_MAX_DIGITS} digits")
        return int(node.value)

    def construct_float(self, node: ScalarNode) -> float:
        text = node.value.lower().replace(".inf", "inf").replace(".nan", "nan")
        value = float(text)
        if not math.isfinite(value):
            _refuse(node, f"{node.value} is no finite number")
        return value


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def represent_text(self, text: str) -> ScalarNode:
        # PyYAML writes some line ends raw between single quotes, and reads them back as spaces.
        style = '"' if len(text.splitlines()) > 1 or text != text.strip() else None
        return self.represent_scalar(_TAG + "str", text, style=style)


def _refuse(node: Node, problem: str) -> NoReturn:
    raise ConstructorError(None, None, problem, node.start_mark)


for _name, _pattern, _first in _CORE:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)
    # The dumper knows YAML 1.1's scalars and these, and quotes text that either would misread.
    _Dumper.add_implicit_resolver(_TAG + _name, _pattern, _first)
_Loader.add_constructor(_TAG + "int", _Loader.construct_int)
_Loader.add_constructor(_TAG + "float", _Loader.construct_float)
_Dumper.add_representer(str, _Dumper.represent_text)
