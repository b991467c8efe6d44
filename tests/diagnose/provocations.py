"""What every provocation is written with: the register of them, and folders to fail in."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

GROUPS: dict[str, dict[str, Callable[[], object]]] = {}
TINY = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2}  # fmt: skip


def provokes(group: str, name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    def register(function: Callable[[], object]) -> Callable[[], object]:
        GROUPS.setdefault(group, {})[name] = function
        return function

    return register


def folder(**files: object) -> Path:
    """A folder of JSON files, or of texts."""
    path = Path(tempfile.mkdtemp())
    for name, content in files.items():
        name = name.replace("__", ".")
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path
