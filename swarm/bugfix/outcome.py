"""How an attempt ended: refused before it began, failed somewhere, or whole; and which of two failures came later."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from oxrl_core.config.requirements import Problem
from oxrl_core.errors import OxrlError
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import Status

REFUSED, STARTED, TOOK_STEPS, UNVERIFIED, WHOLE = range(5)
PHASES = ("drawing", "judging", "training", "syncing", "evaluating", "saving", "exporting", "finished")
_NUMBERS = re.compile(r"[\d.]+(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt."""

    ok: bool
    place: tuple[int, int, int] = (REFUSED, 0, 0)  # how far it came: sort key
    phase: str = ""
    code: str = ""
    what: str = ""
    where: str = ""
    next: str = ""
    run_id: str = ""
    problems: list[Problem] = field(default_factory=list[Problem])

    @property
    def fingerprint(self) -> str:
        """Equal for the same failure, whatever numbers stand in it."""
        if self.problems:
            return " | ".join(sorted(f"{p.where}: {_NUMBERS.sub('#', p.what)}" for p in self.problems))
        return f"{self.code} | {_NUMBERS.sub('#', self.where)} | {_NUMBERS.sub('#', self.what)}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok, "place": list(self.place), "phase": self.phase, "code": self.code, "what": self.what,
            "where": self.where, "next": self.next, "run_id": self.run_id,
            "problems": [problem.model_dump() for problem in self.problems],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Outcome:
        known = dict(found)
        known["problems"] = [Problem.model_validate(one) for one in list[Any](found.get("problems") or ())]
        known["place"] = tuple(found["place"])
        return cls(**known)


def refused(error: OxrlError | None = None, problems: list[Problem] | None = None) -> Outcome:
    """The outcome of a configuration that was refused."""
    found = problems or []
    if error is not None and not found:
        found = [Problem(code=type(error).__name__, what=error.what, where=error.where, next=error.next_step)]
    first = found[0]
    return Outcome(False, (REFUSED, 0, 0), "refused", first.code, first.what, first.where, first.next, problems=found)


def outcome_of(run: RunDir, status: Status) -> Outcome:
    """The outcome of a run that has ended, before anything of it was verified."""
    if status.state == "finished":
        return Outcome(True, (WHOLE, 0, 0), "finished", run_id=run.run_id)
    error = status.error or {"code": status.state, "what": f"the run ended {status.state}: {status.stop_reason}"}
    rank = PHASES.index(status.phase) if status.phase in PHASES else 0
    place = (TOOK_STEPS, status.step, rank) if status.step or rank else (STARTED, 0, 0)
    code, what, where, step = (str(error.get(name, "")) for name in ("code", "what", "where", "next"))
    return Outcome(False, place, status.phase, code, what, where, step, run.run_id)


def unverified(run: RunDir, failed: list[str]) -> Outcome:
    """The outcome of a run that ended whole and does not meet the criteria."""
    what = f"it ended, and is not verified: {'; '.join(failed)}"
    return Outcome(False, (UNVERIFIED, 0, 0), "verify", "Unverified", what, run.run_id, "", run.run_id)
