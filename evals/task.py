"""What a task is: a prompt, a world that is set up, a grader of what came out."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

RULES = (
    "Use the tools of the MCP server `oxrl` for everything. End your answer with one line that holds one JSON object, "
    "as it is asked for here, and nothing after it."
)


@dataclass
class World:
    """The folder of one play: the home with its runs, and what setting up knows and the client does not."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    said: str = ""
    """All that the client printed."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def workspace(self) -> Path:
        """Where the client is started."""
        return self.folder / "workspace"


@dataclass(frozen=True)
class Check:
    """One thing that a grader looks at."""

    name: str
    passed: bool
    seen: str = ""


class Tools(Protocol):
    """The server's tools as the reference player calls them."""

    async def call(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """The structured answer; a tool's error is raised."""
        ...


@dataclass(frozen=True)
class Task:
    """One task: what is planted, what is asked, what counts, and how the tools suffice."""

    name: str
    summary: str
    ask: Callable[[World], str]
    setup: Callable[[World], None]
    grade: Callable[[World, Mapping[str, Any]], list[Check]]  # the world, and the JSON object of the answer
    play: Callable[[Tools], Awaitable[dict[str, Any]]]
    minutes: float = 10.0

    def prompt(self, world: World) -> str:
        """What the client is told."""
        return f"{self.ask(world)}\n\n{RULES}"


def all_tasks() -> dict[str, Task]:
    """Every task by name, in the order of the modules' names."""
    package = importlib.import_module("evals.tasks")
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    tasks = [importlib.import_module(f"evals.tasks.{name}").TASK for name in names]
    return {task.name: task for task in tasks}


def answer_of(text: str) -> dict[str, Any]:
    """The JSON object in the last line of an answer that holds one; empty where none does."""
    for line in reversed(text.splitlines()):
        start, end = line.find("{"), line.rfind("}")
        if start < 0 or end < start:
            continue
        try:
            found = json.loads(line[start : end + 1])
        except ValueError:
            continue
        if isinstance(found, dict):
            return cast("dict[str, Any]", found)
    return {}


def check(name: str, passed: object, seen: object = "") -> Check:
    """One check with what was seen."""
    return Check(name, bool(passed), str(seen)[:300])
