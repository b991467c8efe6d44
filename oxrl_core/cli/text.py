"""Results as plain text: numbers, durations, sparklines, identifiers, and the dense text that agents read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

IDENTIFIERS = (
    "run_id",
    "name",
    "key",
    "path",
    "code",
    "algorithm",
)  # what `quiet` shows of a thing: the first that it has
LIST_FIELDS = ("runs", "items", "rows", "entries", "fields", "lines")

# Views name the operation to call now; here is the same as a command.
COMMANDS = {
    "launch_run": "oxrl train",
    "validate_config": "oxrl config validate",
    "get_run": "oxrl run show {run_id}",
    "watch_run": "oxrl run watch {run_id}",
    "read_logs": "oxrl run logs {run_id}",
    "get_metrics": "oxrl run metrics {run_id}",
    "stop_run": "oxrl run stop {run_id}",
    "resume_run": "oxrl run resume {run_id}",
    "diagnose_run": "oxrl diagnose {run_id}",
}


def command_after(view: Mapping[str, Any]) -> str:
    """The command for the operation that a view names as its next step; other words stand as they are."""
    step = str(view.get("next") or "")
    return COMMANDS[step].format(run_id=view.get("run_id", "")) if step in COMMANDS else step


def number(value: object) -> str:
    """A value as short text: four significant digits, no trailing zeros."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def identifiers(value: Any) -> list[str]:
    """What `quiet` shows: one identifier per thing."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, Any]", value)
        for field in LIST_FIELDS:
            if isinstance(mapping.get(field), list):
                return [line for item in mapping[field] for line in identifiers(item)]
        return [str(mapping[name]) for name in IDENTIFIERS if mapping.get(name)][:1]
    if isinstance(value, list):
        return ["\t".join(number(cell) for cell in cast("list[Any]", value))]
    return [str(value)]


def agent_text(value: Mapping[str, Any]) -> str:
    """A result as dense text: short values on one line, prose and tables below. What is empty is left out."""
    if "columns" in value and "rows" in value:
        head = {name: item for name, item in value.items() if name not in ("columns", "rows")}
        table = ["|".join(value["columns"]), *("|".join(number(cell) for cell in row) for row in value["rows"])]
        return "\n".join(part for part in (agent_text(head), *table) if part)
    short: list[str] = []
    below: list[str] = []
    for name, item in value.items():
        if item in (None, "", [], {}):
            continue
        if isinstance(item, dict):
            below += _agent_mapping(name, cast("dict[str, Any]", item))
        elif isinstance(item, list):
            below += _agent_list(name, cast("list[Any]", item))
        elif isinstance(item, str) and (" " in item or "\n" in item):
            below.append(f"{name}: {item}")
        else:
            short.append(f"{name}={number(item)}")
    return "\n".join([*([" ".join(short)] if short else []), *below])


def _agent_mapping(name: str, item: dict[str, Any]) -> list[str]:
    flat = all(not isinstance(part, (dict, list)) for part in item.values())
    if flat and not any(isinstance(part, str) and " " in part for part in item.values()):
        return [f"{name}: " + " ".join(f"{key}={number(part)}" for key, part in item.items() if part is not None)]
    return [f"{name}:", *("  " + line for line in agent_text(item).splitlines())]


def _agent_list(name: str, items: list[Any]) -> list[str]:
    if all(isinstance(item, dict) for item in items):
        rows = cast("list[dict[str, Any]]", items)
        columns = filled_columns(rows)
        lines = [f"{name}[{len(rows)}] " + "|".join(columns)]
        return lines + ["  " + "|".join(cell_text(row.get(column)) for column in columns) for row in rows]
    if any(isinstance(item, str) and (" " in item or len(item) > 60) for item in items):
        return [f"{name}[{len(items)}]", *("  " + str(item) for item in items)]
    return [f"{name}: " + ", ".join(number(item) for item in items)]


def is_filled(value: Any) -> bool:
    """Whether a value says anything."""
    return value is not None and value != "" and value != [] and value != {}


def filled_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a table, without those that are empty everywhere and say nothing."""
    return [
        key for key in dict.fromkeys(key for row in rows for key in row) if any(is_filled(row.get(key)) for row in rows)
    ]


def cell_text(value: Any) -> str:
    """A value of a table's cell as one line."""
    if not is_filled(value):
        return ""
    if isinstance(value, dict):
        return " ".join(f"{key}={cell_text(part)}" for key, part in cast("dict[str, Any]", value).items())
    if isinstance(value, list):
        return ",".join(cell_text(part) for part in cast("list[Any]", value))
    return number(value).replace("\n", " ")
