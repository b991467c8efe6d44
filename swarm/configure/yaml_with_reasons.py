"""YAML with the reason above every value."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, cast

from oxrl_core.config.mappings import unflatten
from oxrl_core.config.yaml_text import write_mapping
from swarm.configure.rules import Chosen

WIDTH = 112


def write_reasoned(head: str, chosen: Mapping[str, Chosen]) -> str:
    """The values as nested YAML in the order of the sections, each below its reason; the head as first comment."""
    tree = unflatten(dict(chosen))
    order = ("run", "model", "data", "algorithm", "reward", "rollout", "train", "deepspeed")
    sections = sorted(tree, key=lambda name: order.index(name) if name in order else len(order))
    lines = textwrap.wrap(head, WIDTH, initial_indent="# ", subsequent_indent="# ")
    for section in sections:
        lines += _lines(section, tree[section], 0)
    return "\n".join(lines) + "\n"


def _lines(key: str, value: Any, depth: int) -> list[str]:
    indent = "  " * depth
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value)
        lines = [f"{indent}{key}:"]
        said = ""
        for name, part in inner.items():
            made = _lines(name, part, depth + 1)
            if isinstance(part, Chosen):
                # One rule may set several keys: its reason stands once.
                if part.reason == said:
                    made = [line for line in made if not line.lstrip().startswith("#")]
                said = part.reason
            lines += made
        return lines
    assert isinstance(value, Chosen)
    comment = textwrap.wrap(
        value.reason, WIDTH - len(indent), initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )
    written = write_mapping({key: value.value}).splitlines()
    return [*comment, *(indent + line for line in written)]
