"""One line in $OXRL_HOME/audit.jsonl for every call: what was called on what, how long it took, how it ended.

No free text: neither arguments nor answers, which may hold anything.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST_BYTES = 20_000_000  # then it becomes audit.jsonl.1, and the one before that goes
ID_ARGUMENTS = ("run_id", "run_ids", "config", "config_id", "draft_id", "model", "target", "uri", "name", "key")
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,119}$")
_CLIENT = re.compile(r"[^A-Za-z0-9._-]")


def write_entry(
    method: str, name: str, ids: Mapping[str, Any], client: str, seconds: float, characters: int, error: str
) -> None:
    """Adds a line; a log that cannot be written is said on stderr and ends nothing. The ids are those of `ids_of`."""
    from oxrl_core.runs.rundir import oxrl_home

    entry: dict[str, Any] = {
        "time": round(time.time(), 3),
        "pid": os.getpid(),
        "client": _CLIENT.sub("", client)[:40],
        "method": method,
        "name": name if _ID.match(name) else "",
        "ids": ids,
        "ms": round(seconds * 1000, 1),
        "characters": characters,
        "error": error,
    }
    try:
        _append(oxrl_home() / "audit.jsonl", json.dumps(entry, separators=(",", ":")) + "\n")
    except OSError as problem:
        print(f"oxrl-mcp: the audit log cannot be written: {problem}", file=sys.stderr, flush=True)


def ids_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are identifiers and look like some."""
    found: dict[str, Any] = {}
    for name in ID_ARGUMENTS:
        value = arguments.get(name)
        values: list[Any] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
        kept = [one for one in values[:10] if isinstance(one, str) and _ID.match(one)]
        if kept:
            found[name] = kept if isinstance(value, list) else kept[0]
    return found


def _append(path: Path, line: str) -> None:
    # One write of one line: several servers append to the same file.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, line.encode())
        is_full = os.fstat(descriptor).st_size > LARGEST_BYTES
    finally:
        os.close(descriptor)
    if is_full:
        path.replace(path.with_name(f"{path.name}.1"))
