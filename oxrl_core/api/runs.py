"""Runs: launch, look, list, stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from oxrl_core.api.configs import load_checked, report_of
from oxrl_core.api.listing import adopt_orphans
from oxrl_core.api.views import NEXT, view_of
from oxrl_core.errors import ConfigError
from oxrl_core.runs import launch
from oxrl_core.runs.rundir import oxrl_home
from oxrl_core.runs.supervision import resume
from oxrl_core.runs.views import ConfigReport, LaunchResult, RunView


def launch_run(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    key: str = "",
    dry_run: bool = False,
    plan_hash: str = "",
    home: Path | None = None,
) -> LaunchResult:
    """A run that goes on by itself, checked before it starts; it survives its launcher.

    The same key with the same configuration gives the run that was launched before. A dry run creates nothing; with
    its `plan_hash` the launch is refused where the plan is another one by then.
    """
    home = home or oxrl_home()
    loaded = load_checked(config, overrides)
    report = report_of(loaded, home)
    if not dry_run:
        adopt_orphans(home=home)  # who operates this home is here: nothing in it should be without supervision
    if dry_run:
        return plan_of(report, report.kind)
    existing = launch.find_by_key(home, key, report.config_hash) if key else None
    if existing is None and not report.ok:
        raise refusal(report)
    if existing is None:
        check_plan(report, plan_hash)
    run, created = (existing, False) if existing else launch.open_run(home, loaded, report.kind, key)
    if created or not (run.path / "status.json").exists():  # a launcher may have died before it could launch
        launch.launch(run)
    return LaunchResult(**view_of(run, run.status()).model_dump(), created=created)


def plan_of(report: ConfigReport, kind: str, step: int = 0) -> LaunchResult:
    """What a launch would start: the result of a dry run."""
    return LaunchResult(
        run_id="",
        kind=kind,
        name=report.name,
        state="planned",
        step=step,
        total_steps=report.needs.steps if report.needs else None,
        config_hash=report.config_hash,
        plan=report,
        plan_hash=hash_of_plan(report),
        next=NEXT["planned"] if report.ok else "validate_config",
    )


def hash_of_plan(report: ConfigReport) -> str:
    """What stands for a plan: the configuration, what it takes here, its rows and what is wrong with it."""
    needs = report.needs.model_dump() if report.needs else {}
    problems = sorted(f"{one.code} {one.where}" for one in report.problems if one.severity == "error")
    text = json.dumps([report.config_hash, report.kind, needs, problems], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_plan(report: ConfigReport, plan_hash: str) -> None:
    """Raises where the plan that was seen is not the one that would be launched now."""
    if plan_hash and plan_hash != hash_of_plan(report):
        raise ConfigError(
            f"the plan is another one now ({hash_of_plan(report)}, not {plan_hash}): configuration, data or machine "
            "has changed since the dry run",
            "plan_hash",
            "make a dry run again, look at its plan, and launch with its plan_hash",
        )


def resume_run(run_id: str, *, home: Path | None = None) -> LaunchResult:
    """A run that was stopped, failed or was lost, as it goes on in its own directory from its newest checkpoint.

    A run that lives is left as it is; one that has finished is refused.
    """
    run = launch.find_run(home or oxrl_home(), run_id)
    status, created = resume.resume(run)
    return LaunchResult(**view_of(run, status).model_dump(), created=created)


def refusal(report: ConfigReport) -> ConfigError:
    problems = [problem for problem in report.problems if problem.severity == "error"]
    if len(problems) == 1:
        return ConfigError(problems[0].what, problems[0].where, problems[0].next)
    lines = [f"{problem.where}: {problem.what} ({problem.next})" for problem in problems]
    return ConfigError(f"{len(problems)} problems:\n  " + "\n  ".join(lines), report.name, "mend them and launch again")


def get_run(run_id: str, *, home: Path | None = None) -> RunView:
    """One run now; `run_id` may be a unique prefix, a name (its newest run) or `latest`."""
    run = launch.find_run(home or oxrl_home(), run_id)
    return view_of(run, run.status())


def stop_run(run_id: str, *, reason: str = "", force: bool = False, home: Path | None = None) -> RunView:
    """The run after its last process has left. Blocks for its grace and a few seconds at most; harmless when repeated.

    The driver is asked to save a checkpoint and leave; `force` gives it no time for that.
    """
    run = launch.find_run(home or oxrl_home(), run_id)
    status = launch.stop(run, reason or "asked to stop", grace=0.0 if force else None)
    return view_of(run, status)
