"""What an onboarding has done: one line when a state is entered, one with its facts when it is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from oxrl_core.runs.records import append_line, read_lines
from oxrl_core.runs.rundir import RunDir

STATES = ("scout", "configure", "data", "miniature", "real", "verify", "evaluate", "archive", "clean_up")


class Journal:
    """The states of one onboarding; a state that was left is never entered again."""

    def __init__(self, run: RunDir) -> None:
        self.path = run.path / "journal.jsonl"
        self.facts: dict[str, dict[str, Any]] = {
            str(line["state"]): dict(line["facts"]) for line in read_lines(self.path) if line.get("event") == "left"
        }

    @property
    def finished(self) -> int:
        """How many states were left."""
        return sum(state in self.facts for state in STATES)

    def run(self, state: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The facts of a state: those that are written down, or those of its work now."""
        if state not in self.facts:
            self._append({"state": state, "event": "entered"})
            began = time.monotonic()
            facts = work()
            seconds = round(time.monotonic() - began, 2)
            self._append({"state": state, "event": "left", "seconds": seconds, "facts": facts})
            self.facts[state] = facts
        return self.facts[state]

    def note(self, event: str, state: str, **fields: Any) -> None:
        """A line that is neither: parked, steered, given up."""
        self._append({"state": state, "event": event, **fields})

    def _append(self, line: dict[str, Any]) -> None:
        append_line(self.path, {"time": time.time(), **line}, mend=True)
