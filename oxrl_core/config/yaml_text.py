"""YAML as people mean it: line numbers kept, duplicate keys refused, 1e-6 a number, `no` and `on` and dates words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import yaml

from oxrl_core.errors import ConfigError

MAX_NODES = 20_000  # a thousand times a real config; aliases can make a short text grow without end
MAX_DEPTH = 30


@dataclass(frozen=True)
class Document:
    """A mapping read from YAML, and the line on which each of its dotted keys stands."""

    mapping: dict[str, Any]
    lines: dict[str, int]


_NUMBER_STARTS = "-+0123456789"
_NULL = ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"))
_BOOL = ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"))
_INT = ("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"))
_FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*\.?[eE][-+]?[0-9]+"
        r"|[-+]?[0-9][0-9_]*\.|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
)
_MERGE = ("tag:yaml.org,2002:merge", re.compile(r"^<<$"))
# First letter of a plain scalar -> what it may be. Version 1.1 would read 1e-6 as text, `no` as false, dates as dates.
RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {
    **{letter: [_NULL] for letter in ("", "~", "n", "N")},
    **{letter: [_BOOL] for letter in "tTfF"},
    **{letter: [_INT, _FLOAT] for letter in _NUMBER_STARTS},
    ".": [_FLOAT],
    "<": [_MERGE],
}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars."""

    yaml_implicit_resolvers = RESOLVERS


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    # JSON writes characters beyond the first 65,536 as two escapes, which YAML leaves apart.
    return loader.construct_scalar(node).encode("utf-16", "surrogatepass").decode("utf-16")


_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:str", _construct_text)


def read_mapping(text: str, label: str) -> Document:
    """The mapping that a YAML text holds; anything else is a ConfigError with line and column."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is None:
            raise ConfigError("the file is empty", where=label, next_step="start from a recipe: `oxrl examples`")
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
            raise ConfigError(
                f"the file holds {kind}, not a mapping of sections",
                where=label,
                next_step="a config starts with sections such as `run:`, `model:` and `data:`",
            )
        lines: dict[str, int] = {}
        _note_lines(root, "", lines, label, depth=0)
        value: Any = yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise _syntax_error(error, label) from None
    except ValueError as error:  # a number that Python cannot hold, an odd escape
        raise ConfigError(f"not readable as YAML: {error}", where=label) from None
    return Document(cast("dict[str, Any]", value), lines)


def read_value(text: str, label: str) -> Any:
    """The value that a YAML fragment stands for, as in `train.lr=1e-6`."""
    try:
        return yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"'{text}' is not a YAML value: {reason}", where=label, next_step="put it in quotes if it is text"
        ) from None


def write_mapping(mapping: dict[str, Any]) -> str:
    """YAML text that `read_mapping` reads back to the same mapping."""
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes with the resolvers of SafeLoader and of _Loader: what either would misread is quoted."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    looks_like_more = any(pattern.match(text) for _, pattern in (_NULL, _BOOL, _INT, _FLOAT, _MERGE))
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style="'" if looks_like_more else None)


_Dumper.add_representer(str, _represent_text)


def _note_lines(node: yaml.Node, path: str, lines: dict[str, int], label: str, depth: int) -> None:
    if depth > MAX_DEPTH or len(lines) > MAX_NODES:
        raise ConfigError("the file is nested too deep or grows without end (aliases?)", where=label)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(cast("list[yaml.Node]", node.value)):
            key = f"{path}.{index}" if path else str(index)
            lines[key] = item.start_mark.line + 1
            _note_lines(item, key, lines, label, depth + 1)
        return
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError("a key must be a plain word", where=f"{label}, line {key_node.start_mark.line + 1}")
        name, line = str(cast("object", key_node.value)), key_node.start_mark.line + 1
        key = f"{path}.{name}" if path else name
        if name in seen and name != "<<":
            raise ConfigError(
                f"'{key}' stands twice: on line {seen[name]} and on line {line}",
                where=f"{label}, line {line}",
                next_step="keep one of them; YAML would silently take the last",
            )
        seen[name] = line
        lines[key] = line
        _note_lines(value_node, key, lines, label, depth + 1)


def _syntax_error(error: yaml.YAMLError, label: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f"{label}, line {mark.line + 1}, column {mark.column + 1}" if mark else label
    reason = str(getattr(error, "problem", None) or error)
    context = getattr(error, "context", None)
    if "found character '\\t'" in reason:
        return ConfigError("a tab stands where YAML wants spaces", where=place, next_step="indent with spaces")
    what = f"not readable as YAML: {reason}" + (f" ({context})" if context else "")
    return ConfigError(what, where=place, next_step="check indentation, colons and quotes on and before that line")
