"""Sweeps: many runs of one configuration over a space of values, driven to the end, and one summary of them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from oxrl_core.api.configs import load_checked
from oxrl_core.api.runs import get_run, launch_run, resume_run, stop_run
from oxrl_core.errors import ConfigError, DeadlineError, NotFoundError, OxrlError, UserError
from oxrl_core.runs.records import file_lock
from oxrl_core.runs.rundir import oxrl_home
from oxrl_core.runs.sweep.space import Axis, points, read_axes
from oxrl_core.runs.sweep.sweeps import (
    INTERRUPTED,
    Goal,
    SweepView,
    Trial,
    find_sweep,
    read_sweep,
    refresh,
    sweep_folder,
    sweep_ids,
    write_sweep,
)

_POLL_SECONDS = 0.5
_LONGEST_NAME = 80

Say = Callable[[str, Trial], None]  # launched, resumed, ended, refused


def plan_sweep(
    config: str | Path,
    space: Sequence[str] = (),
    *,
    space_file: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
    metric: str = "",
    goal: Goal = "",
    home: Path | None = None,
) -> SweepView:
    """The trials of a sweep, nothing launched; the same question gives the same sweep, as far as it has come."""
    from oxrl_core.config.load import config_hash

    home = home or oxrl_home()
    axes = read_axes(space, space_file)
    found = points(axes, samples, seed)
    base = load_checked(config, [])
    name, base_hash = base.config.run.name, config_hash(base.config)
    sweep_id = f"{name[:60]}-{_digest(base_hash, axes, samples, seed)}"
    known = read_sweep(home, sweep_id)
    if known is not None:
        known.metric, known.goal = metric or known.metric, goal or known.goal
        return known
    trials = [
        Trial(
            index=index,
            point=point,
            overrides=[*(f"{key}={json.dumps(value)}" for key, value in point.items()), _name(name, index, point)],
        )
        for index, point in enumerate(found)
    ]
    _refuse(config, trials)
    return SweepView(
        sweep_id=sweep_id, state="planned", config_hash=base_hash, metric=metric, goal=goal, trials=trials, ranking=[]
    )


def run_sweep(
    config: str | Path, sweep: SweepView, *, parallel: int = 1, say: Say | None = None, home: Path | None = None
) -> SweepView:
    """The sweep when every trial has ended. What an earlier call began goes on where it was; nothing runs twice.

    Interrupted (KeyboardInterrupt), it stops its runs cleanly and returns in state `interrupted`.
    """
    home = home or oxrl_home()
    if parallel < 1:
        raise ConfigError(f"{parallel} runs at once are asked for", "--parallel", "ask for 1 or more")
    folder = sweep_folder(home, sweep.sweep_id)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with file_lock(folder / ".lock", 1.0):
            # What was planned may be older than what another driver wrote before it let go.
            latest = read_sweep(home, sweep.sweep_id)
            if latest is not None:
                latest.metric, latest.goal = sweep.metric, sweep.goal
                sweep = latest
            return _drive(config, sweep, parallel, say or _silent, home)
    except DeadlineError:
        raise ConfigError(
            "another process drives this sweep", sweep.sweep_id, f"watch it: oxrl sweep show {sweep.sweep_id}"
        ) from None


def show_sweep(sweep_id: str = "latest", *, home: Path | None = None) -> SweepView:
    """A sweep with what its runs say now."""
    home = home or oxrl_home()
    sweep = read_sweep(home, find_sweep(home, sweep_id))
    if sweep is None:
        raise NotFoundError(f"there is no sweep {sweep_id!r}", str(home / "sweeps"), "oxrl sweep list")
    refresh(home, sweep)
    return _with_next(sweep)


def list_sweeps(*, home: Path | None = None) -> list[SweepView]:
    """All sweeps of a home, the newest first."""
    home = home or oxrl_home()
    return [show_sweep(sweep_id, home=home) for sweep_id in sweep_ids(home)]


def _drive(config: str | Path, sweep: SweepView, parallel: int, say: Say, home: Path) -> SweepView:
    refresh(home, sweep)
    for trial in sweep.trials:
        _open_again(trial)
    sweep.state = "running"
    write_sweep(home, sweep)
    try:
        while any(trial.is_open for trial in sweep.trials):
            for trial in [trial for trial in sweep.trials if trial.state == "waiting"]:
                if sum(trial.is_active for trial in sweep.trials) >= parallel:
                    break
                _start(config, sweep, trial, say, home)
                write_sweep(home, sweep)
            active = [trial for trial in sweep.trials if trial.is_active]
            if active:
                time.sleep(_POLL_SECONDS)
            refresh(home, sweep)
            ended = [trial for trial in active if not trial.is_open]
            for trial in ended:
                say("ended", trial)
            if ended:
                write_sweep(home, sweep)
    except KeyboardInterrupt:
        for trial in sweep.trials:
            if trial.is_active:
                with suppress(OxrlError):  # it is said in its state; the others must be stopped too
                    stop_run(trial.run_id, reason=INTERRUPTED, home=home)
        sweep.state = "interrupted"
    else:
        sweep.state = "finished"
    refresh(home, sweep)
    write_sweep(home, sweep)
    return _with_next(sweep)


def _open_again(trial: Trial) -> None:
    """A trial whose run was cut off by the sweep's own end, or has lost its supervisor, waits for its turn again."""
    if trial.state in ("lost", "orphaned") or (trial.state == "stopped" and trial.error == INTERRUPTED):
        trial.state, trial.error = "waiting", ""


def _start(config: str | Path, sweep: SweepView, trial: Trial, say: Say, home: Path) -> None:
    """Lets a trial go on from the newest checkpoint of its run; one without a run to go on with begins."""
    try:
        if trial.run_id and _goes_on(trial, home):
            say("resumed", trial)
            return
        key = f"sweep/{sweep.sweep_id}/{trial.index}/{trial.attempt}"
        launched = launch_run(config, trial.overrides, key=key, home=home)
    except OxrlError as error:
        trial.state, trial.error = "refused", f"{type(error).__name__}: {error.what}"
        say("refused", trial)
        return
    trial.run_id, trial.state = launched.run_id, launched.state
    say("launched", trial)


def _goes_on(trial: Trial, home: Path) -> bool:
    """Whether the run of the trial goes on. Else it cannot (train.resume: false, removed): another attempt begins."""
    try:
        found = get_run(trial.run_id, home=home)
        is_over = found.state in ("finished", "failed")  # while it waited for its turn
        trial.state = found.state if is_over else resume_run(trial.run_id, home=home).state
    except (ConfigError, NotFoundError):
        trial.attempt += 1
        trial.run_id, trial.step = "", 0
        return False
    return True


def _refuse(config: str | Path, trials: Sequence[Trial]) -> None:
    """Marks the trials whose values cannot be meant together; where none can, that is the answer."""
    errors: list[UserError] = []
    for trial in trials:
        try:
            load_checked(config, trial.overrides)
        except UserError as error:
            trial.state, trial.error = "refused", f"{type(error).__name__}: {error.what}"
            errors.append(error)
    if errors and len(errors) == len(trials):
        raise errors[0]


def _name(name: str, index: int, point: dict[str, object]) -> str:
    """The name of a trial's run, unless the space says one itself."""
    if "run.name" in point:
        raise ConfigError("run.name is the sweep's to give", "sweep", "leave it out of the space")
    ending = f"-{index:02d}"
    return f"run.name={json.dumps(name[: _LONGEST_NAME - len(ending)] + ending)}"


def _digest(base_hash: str, axes: Sequence[Axis], samples: int | None, seed: int) -> str:
    asked = json.dumps([base_hash, [repr(axis) for axis in axes], samples, seed if samples is not None else 0])
    return hashlib.sha256(asked.encode()).hexdigest()[:8]


def _with_next(sweep: SweepView) -> SweepView:
    if sweep.ranking and sweep.state == "finished":
        best = next(trial for trial in sweep.trials if trial.index == sweep.ranking[0])
        sweep.next = f"oxrl report {best.run_id}"
    elif sweep.state == "interrupted":
        sweep.next = "the same command again goes on"
    elif sweep.state == "running":
        sweep.next = f"oxrl sweep show {sweep.sweep_id}"
    return sweep


def _silent(_what: str, _trial: Trial) -> None:
    """Says nothing."""
