"""Runs: launch, look, list, stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oxrl_core.api.configs import load_checked, report_of
from oxrl_core.api.views import NEXT, view_of
from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.runs import launch, process
from oxrl_core.runs.rundir import RunDir, oxrl_home
from oxrl_core.runs.views import ConfigReport, LaunchResult, RunList, RunView


def launch_run(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    key: str = "",
    dry_run: bool = False,
    home: Path | None = None,
) -> LaunchResult:
    """A run that goes on by itself, checked before it starts; it survives its launcher.

    The same key with the same configuration gives the run that was launched before. A dry run creates nothing.
    """
    home = home or oxrl_home()
    loaded = load_checked(config, overrides)
    report = report_of(loaded, home)
    if dry_run:
        return LaunchResult(
            run_id="",
            kind=report.kind,
            name=report.name,
            state="planned",
            total_steps=report.needs.steps if report.needs else None,
            config_hash=report.config_hash,
            plan=report,
            next=NEXT["planned"] if report.ok else "validate_config",
        )
    existing = launch.find_by_key(home, key, report.config_hash) if key else None
    if existing is None and not report.ok:
        raise refusal(report)
    run, created = (existing, False) if existing else launch.open_run(home, loaded, report.kind, key)
    if created or not (run.path / "status.json").exists():  # a launcher may have died before it could launch
        launch.launch(run)
    return LaunchResult(**view_of(run, run.status()).model_dump(), created=created)


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


def list_runs(
    *,
    state: str = "",
    limit: int = 50,
    cursor: str = "",
    home: Path | None = None,
) -> RunList:
    """Runs, newest first, without their alerts. `state` is one state, or `active` for those that have not ended."""
    ids = launch.run_ids(home or oxrl_home())
    total = len(ids)
    if cursor:
        if cursor not in ids:
            raise NotFoundError(f"{cursor!r} is not a cursor of list_runs", "cursor", "start again without a cursor")
        ids = ids[ids.index(cursor) + 1 :]
    members: dict[str, list[process.ProcessIdentity]] | None = None
    views: list[RunView] = []
    last = ""
    for run_id in ids:
        if len(views) == limit:
            return RunList(runs=views, total=total, next_cursor=last)
        last = run_id
        run = RunDir((home or oxrl_home()) / "runs" / run_id)
        if members is None:
            members = process.members_by_run()  # one scan of /proc for the whole list
        try:
            status = run.status(members)
        except NotFoundError:
            continue  # being created, or removed a moment ago
        if state and status.state != state and not (state == "active" and not status.has_ended):
            continue
        views.append(view_of(run, status, with_alerts=False))
    return RunList(runs=views, total=total)


def stop_run(run_id: str, *, reason: str = "", force: bool = False, home: Path | None = None) -> RunView:
    """The run after its last process has left. Blocks for its grace and a few seconds at most; harmless when repeated.

    The driver is asked to save a checkpoint and leave; `force` gives it no time for that.
    """
    run = launch.find_run(home or oxrl_home(), run_id)
    status = launch.stop(run, reason or "asked to stop", grace=0.0 if force else None)
    return view_of(run, status)
