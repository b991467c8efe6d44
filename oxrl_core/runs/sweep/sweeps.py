"""Sweeps on disk: <home>/sweeps/<id>/sweep.json says what was asked, which run answers it, and how well it did.

A sweep owns no process: its trials are ordinary runs that go on when whoever drives the sweep dies.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.runs.analysis.compare import best_value, final_value
from oxrl_core.runs.analysis.curves import direction_of, rounded
from oxrl_core.runs.records import read_json, write_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import ENDED_STATES
from oxrl_core.runs.views import View

Goal = Literal["max", "min", ""]
RANKED = ("eval/reward", "eval/accuracy", "reward/mean", "preference/accuracy", "eval/loss", "loss")
INTERRUPTED = "the sweep was interrupted"
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class Trial(View):
    """One point of the space and the run that tries it."""

    index: int
    point: dict[str, Any]
    overrides: list[str]
    attempt: int = 0
    """Runs of this trial that were cut off before and could not go on from a checkpoint."""
    run_id: str = ""
    state: str = "waiting"
    """waiting (to begin, or to go on), refused (its configuration cannot run), or the state of its run."""
    step: int = 0
    value: float | None = None
    """Final value of the sweep's metric: mean of the last ten rows; of an evaluation the last one."""
    best: float | None = None
    error: str = ""

    @property
    def is_open(self) -> bool:
        return self.state not in (*ENDED_STATES, "refused")

    @property
    def is_active(self) -> bool:
        """Whether its run is on its way now."""
        return self.is_open and self.state != "waiting"


class SweepView(View):
    """A sweep as it is now; trials in the order of the space."""

    sweep_id: str
    state: Literal["planned", "running", "interrupted", "finished"]
    config_hash: str
    metric: str = ""
    """What trials are ranked by; empty until one has measured something."""
    goal: Goal = ""
    trials: list[Trial]
    ranking: list[int]
    """Indices of the trials that have a value, the best first."""
    num_finished: int = 0
    num_failed: int = 0
    """Failed, lost, refused, or stopped by somebody."""
    path: str = ""
    next: str = ""


def sweep_folder(home: Path, sweep_id: str) -> Path:
    """Where a sweep stands."""
    if not _ID.match(sweep_id):
        raise NotFoundError(f"there is no sweep {sweep_id!r}", str(home / "sweeps"), "oxrl sweep list")
    return home / "sweeps" / sweep_id


def sweep_ids(home: Path) -> list[str]:
    """The sweeps of a home, the newest first."""
    try:
        with os.scandir(home / "sweeps") as entries:
            found = [Path(entry.path, "sweep.json") for entry in entries]
    except FileNotFoundError:
        return []
    dated = [(path.stat().st_mtime_ns, path.parent.name) for path in found if path.exists()]
    return [sweep_id for _, sweep_id in sorted(dated, reverse=True)]


def find_sweep(home: Path, wanted: str) -> str:
    """The id of the sweep with this id, the only one with this beginning, or the `latest`."""
    ids = sweep_ids(home)
    if wanted in ids:
        return wanted
    if wanted == "latest" and ids:
        return ids[0]
    hits = [sweep_id for sweep_id in ids if wanted and sweep_id.startswith(wanted)]
    if len(hits) == 1:
        return hits[0]
    from oxrl_core.suggest import did_you_mean

    what = f"{wanted!r} is the beginning of {len(hits)} sweeps" if hits else f"there is no sweep {wanted!r}."
    raise NotFoundError(f"{what}{did_you_mean(wanted, ids)}", str(home / "sweeps"), "oxrl sweep list")


def read_sweep(home: Path, sweep_id: str) -> SweepView | None:
    """The sweep as it was last written; None where there is none."""
    record = read_json(sweep_folder(home, sweep_id) / "sweep.json")
    if record is None:
        return None
    try:
        return SweepView.model_validate(record)
    except ValidationError as error:
        raise ConfigError(
            f"sweep.json is not readable: {error.errors()[0]['msg']}",
            str(sweep_folder(home, sweep_id)),
            "move the folder away; the runs of the sweep stay: oxrl run list",
        ) from None


def write_sweep(home: Path, sweep: SweepView) -> None:
    """Replaces sweep.json in one rename."""
    folder = sweep_folder(home, sweep.sweep_id)
    folder.mkdir(parents=True, exist_ok=True)
    sweep.path = str(folder / "sweep.json")
    write_json(folder / "sweep.json", sweep.model_dump(mode="json"), durable=True)


def refresh(home: Path, sweep: SweepView) -> None:
    """Brings states, values and ranking up to what the runs say now."""
    runs = {trial.index: RunDir(home / "runs" / trial.run_id) for trial in sweep.trials if trial.run_id}
    rows: dict[int, list[dict[str, Any]]] = {}
    for trial in sweep.trials:
        if trial.index not in runs:
            continue
        run = runs[trial.index]
        try:
            status = run.status()
        except NotFoundError:
            trial.state, trial.error = "lost", "its run directory was removed"
            continue
        trial.step = status.step
        rows[trial.index] = run.metrics()
        if trial.state == "waiting":  # whatever its run was stopped by, it will go on
            continue
        trial.state = status.state
        trial.error = f"{status.error['code']}: {status.error['what']}" if status.error else ""
        if status.stop_reason and status.state == "stopped":
            trial.error = status.stop_reason
    _rank(sweep, rows)
    sweep.num_finished = sum(trial.state == "finished" for trial in sweep.trials)
    sweep.num_failed = sum(trial.state in ("failed", "lost", "refused", "stopped") for trial in sweep.trials)


def _rank(sweep: SweepView, rows: dict[int, list[dict[str, Any]]]) -> None:
    everything = [row for one in rows.values() for row in one]
    if not sweep.metric:
        sweep.metric = next((name for name in RANKED if any(name in row for row in everything)), "")
    if not sweep.metric:
        return
    if not sweep.goal:
        direction = direction_of(sweep.metric, everything)
        if direction == 0 and everything:
            raise ConfigError(
                f"whether more or less of {sweep.metric} is better cannot be known", "--metric", "say --goal max or min"
            )
        sweep.goal = "min" if direction < 0 else "max"
    for trial in sweep.trials:
        one = rows.get(trial.index, [])
        trial.value = rounded(final_value(one, sweep.metric))
        trial.best = rounded(best_value(one, sweep.metric)[0])
    measured = [trial for trial in sweep.trials if trial.value is not None and trial.state != "failed"]
    sign = 1 if sweep.goal == "min" else -1
    sweep.ranking = [trial.index for trial in sorted(measured, key=lambda one: sign * (one.value or 0.0))]
