"""Every attempt as a row on disk, attempts/NN/attempt.json of the run that repairs: what a restart goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from oxrl_core.diagnose.views import Change
from oxrl_core.runs.records import read_json, write_json
from oxrl_core.runs.rundir import RunDir

Source = Literal["first", "archive", "rules", "caller"]
Verdict = Literal["", "kept", "rolled_back"]


class Attempt(BaseModel):
    """One start of a configuration, with what was changed about it and what came of it."""

    model_config = ConfigDict(extra="forbid")

    number: int
    stage: str
    source: Source
    cause: str = ""
    evidence: list[str] = Field(default_factory=list[str])
    changes: list[Change] = Field(default_factory=list[Change])
    """What this attempt changed."""
    active: list[Change] = Field(default_factory=list[Change])
    """All changes that it ran with."""
    reason: str = ""
    steering: int = 0
    """Decisions of the caller that had been used up when it was planned."""
    probe: str = ""
    """Run of two steps before it, or why there was none."""
    run_id: str = ""
    outcome: dict[str, Any] | None = None
    verdict: Verdict = ""

    @property
    def has_ended(self) -> bool:
        return self.outcome is not None


def folder_of(run: RunDir) -> Path:
    return run.path / "attempts"


def read_attempts(run: RunDir, stage: str = "") -> list[Attempt]:
    """The attempts of a run in their order, of one stage or of all."""
    found: list[Attempt] = []
    for path in sorted(folder_of(run).glob("[0-9][0-9]/attempt.json")):
        record = read_json(path)
        if record is not None:
            found.append(Attempt.model_validate(record))
    return [attempt for attempt in found if not stage or attempt.stage == stage]


def write_attempt(run: RunDir, attempt: Attempt) -> None:
    """Replaces the row of an attempt in one rename; the overlay stands beside it in a form that people read."""
    folder = folder_of(run) / f"{attempt.number:02d}"
    folder.mkdir(parents=True, exist_ok=True)
    overlay = [change.model_dump() | {"cause": attempt.cause} for change in attempt.changes]
    write_json(folder / "overlay.json", {"overlay": overlay}, durable=True)
    write_json(folder / "attempt.json", attempt.model_dump(), durable=True)
