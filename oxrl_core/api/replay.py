"""Repeating a step of a run, and going on from one in another way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oxrl_core.api.configs import report_of
from oxrl_core.api.runs import check_plan, plan_of, refusal
from oxrl_core.api.views import view_of
from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.runs import launch, replay
from oxrl_core.runs.records import read_json
from oxrl_core.runs.replay import REPLAY_KIND, RESULT_FILE, ReplayView
from oxrl_core.runs.rundir import RunDir, oxrl_home
from oxrl_core.runs.views import LaunchResult

if TYPE_CHECKING:
    from oxrl_core.config.load import LoadedConfig


def replay_run(run_id: str, step: int, overrides: Sequence[str] = (), *, home: Path | None = None) -> LaunchResult:
    """A run that repeats one step of another and compares every number with what was recorded; see `get_replay`.

    The state before the step is the newest checkpoint before it, plus the recorded steps between. With overrides the
    step is computed once more from the same state, and both are shown side by side.
    """
    home = home or oxrl_home()
    run = create_replay(home, launch.find_run(home, run_id), step, overrides)
    launch.launch(run)
    return LaunchResult(**view_of(run, run.status()).model_dump(), created=True)


def create_replay(home: Path, parent: RunDir, step: int, overrides: Sequence[str] = ()) -> RunDir:
    """The run directory of a replay, not launched."""
    start = replay.check_can_repeat(parent, step)
    before = parent.config()
    loaded = changed_config(parent, [*overrides, f"run.name={before.run.name[:70]}-replay"])
    replay.check_what_if(before, loaded.config)
    order = {"run_id": parent.run_id, "step": step, "overrides": list(overrides), "started_from": start.name}
    facts = {REPLAY_KIND: order, "cwd": parent.spec().get("cwd")}  # paths of the data may be relative
    run = RunDir.create(home, loaded, REPLAY_KIND, facts=facts)
    replay.inherit_model(parent, run)
    return run


def get_replay(run_id: str, *, home: Path | None = None) -> ReplayView:
    """What came of a replay: equal bit for bit, or which metric, rollout, token or parameter differs."""
    run = launch.find_run(home or oxrl_home(), run_id)
    if run.spec().get("kind") != REPLAY_KIND:
        raise NotFoundError(f"{run.run_id} is not a replay", "run", f"oxrl replay {run.run_id} --step N makes one")
    return replay.read_result(run, read_json(run.path / RESULT_FILE), run.status().state)


def fork_run(
    run_id: str,
    step: int,
    overrides: Sequence[str] = (),
    *,
    key: str = "",
    dry_run: bool = False,
    plan_hash: str = "",
    home: Path | None = None,
) -> LaunchResult:
    """A new run that goes on from the state of another after a step, with overrides.

    It starts from a checkpoint of that step where there is one; else the recorded steps since the newest one before it
    are learned from once more. Overrides that the state cannot be loaded into are refused.
    """
    home = home or oxrl_home()
    parent = launch.find_run(home, run_id)
    if dry_run:
        _, loaded = check_fork(parent, step, overrides)
        report = report_of(loaded, home)
        return plan_of(report, report.kind, step)
    run, created = create_fork(home, parent, step, overrides, key, plan_hash)
    if created or not (run.path / "status.json").exists():  # a launcher may have died before it could launch
        launch.launch(run)
    return LaunchResult(**view_of(run, run.status()).model_dump(), created=created)


def check_fork(parent: RunDir, step: int, overrides: Sequence[str]) -> tuple[replay.Start, LoadedConfig]:
    """Where a fork starts from and its configuration; raises where the state does not fit it."""
    start = replay.check_can_repeat(parent, step, from_step=0)
    loaded = changed_config(parent, overrides)
    config = loaded.config
    replay.check_state(parent.config(), config)
    if not config.train.resume:
        raise ConfigError("a fork goes on from a checkpoint", "train.resume", "set train.resume: true")
    if config.train.steps is not None and config.train.steps <= step:
        raise ConfigError(
            f"step {step} is the last of {config.train.steps}",
            "train.steps",
            f"set train.steps above {step}, or fork at an earlier step",
        )
    return start, loaded


def create_fork(
    home: Path, parent: RunDir, step: int, overrides: Sequence[str] = (), key: str = "", plan_hash: str = ""
) -> tuple[RunDir, bool]:
    """The run directory of a fork, not launched, and whether it was created just now."""
    start, loaded = check_fork(parent, step, overrides)
    report = report_of(loaded, home)
    if not report.ok:
        raise refusal(report)
    if not (key and launch.find_by_key(home, key, report.config_hash)):
        check_plan(report, plan_hash)
    before, after = parent.config(), loaded.config
    origin = {
        "run_id": parent.run_id,
        "step": step,
        "overrides": list(overrides),
        "other_rows": replay.takes_other_rows(before, after),
        "other_draws": replay.draws_otherwise(before, after),
    }
    facts = {"parent": origin, "cwd": parent.spec().get("cwd")}
    run, created = launch.open_run(home, loaded, report.kind, key, facts=facts)
    if run.spec().get("parent") != origin:
        raise ConfigError(f"the key {key!r} belongs to run {run.run_id}, which is another", "key", "choose another key")
    if not (run.path / "status.json").exists():
        replay.inherit(parent, run, start, step)
    if created:
        run.append_event("info", "forked", f"goes on from step {step} of {parent.run_id}", **origin)
    return run, created


def changed_config(run: RunDir, overrides: Sequence[str]) -> LoadedConfig:
    """The configuration of a run with overrides. Another loss begins with its own defaults; all else stays."""
    from oxrl_core.config.load import load_config

    mapping = run.config().model_dump(mode="json")
    if any(text.startswith("algorithm.name=") for text in overrides):
        for name in run.config().algorithm.params:
            mapping["algorithm"].pop(name, None)
    return load_config(mapping, overrides)
