"""The operations that command line, MCP server and Python callers share. Each returns a view or raises OxrlError.

Nothing here trains: a launch starts a detached supervisor, everything else reads or signals through the run directory.
`home` is the folder of all runs; None means $OXRL_HOME or ~/.oxrl.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from oxrl_core.errors import ConfigError, NotFoundError, UserError
from oxrl_core.runs import launch, process
from oxrl_core.runs.records import thin
from oxrl_core.runs.rundir import RunDir, oxrl_home
from oxrl_core.runs.status import Status
from oxrl_core.runs.views import (
    Alert,
    ConfigReport,
    EnvironmentReport,
    ErrorView,
    LaunchResult,
    LogView,
    MetricSummary,
    MetricsView,
    NeedsView,
    RunList,
    RunView,
)

if TYPE_CHECKING:
    from oxrl_core.config.load import LoadedConfig
    from oxrl_core.config.requirements import Problem

Until = Literal["progress", "end"]
_POLL_SECONDS = 0.25
_REFRESH_SECONDS = 2.0  # a death leaves no trace in the files: look at the processes this often
_MAX_CONFIG_CHARACTERS = 256 * 1024
_MAX_ALERTS = 10
_NEXT = {
    "planned": "launch_run",
    "queued": "watch_run",
    "starting": "watch_run",
    "running": "watch_run",
    "stopping": "watch_run",
    "stalled": "read_logs",
    "orphaned": "stop_run",
    "finished": "get_metrics",
    "stopped": "get_metrics",
    "failed": "read_logs",
    "lost": "read_logs",
}


# -------------------------------------------------------------------- configuration


def validate_config(config: str | Path, overrides: Sequence[str] = (), *, home: Path | None = None) -> ConfigReport:
    """Whether a configuration (YAML text, a recipe's name or a path) can run here, what it takes, and every problem.

    A configuration that cannot be read at all is a report with that problem, not an exception.
    """
    try:
        loaded = _load(config, overrides)
    except UserError as error:
        return ConfigReport(ok=False, problems=[_as_problem(error)])
    return _report(loaded, home or oxrl_home())


def _load(config: str | Path, overrides: Sequence[str]) -> LoadedConfig:
    from oxrl_core.config.load import load_config

    if isinstance(config, str) and len(config) > _MAX_CONFIG_CHARACTERS:
        raise ConfigError(f"it has {len(config)} characters", "config", f"keep it below {_MAX_CONFIG_CHARACTERS}")
    return load_config(config, overrides)


def _report(loaded: LoadedConfig, home: Path) -> ConfigReport:
    from oxrl_core.algorithms.base import get_algorithm
    from oxrl_core.config.check import check_config
    from oxrl_core.config.explain import explain
    from oxrl_core.config.load import config_hash, config_to_yaml

    config = loaded.config
    needs = check_config(config, home=home)
    return ConfigReport(
        ok=needs.ok,
        name=config.run.name,
        kind=get_algorithm(config.algorithm.name).kind,
        config_hash=config_hash(config),
        needs=NeedsView(
            gpus=needs.gpus,
            cpu_workers=needs.cpu_workers,
            memory_gib=needs.memory_gib,
            disk_gib=needs.disk_gib,
            num_rows=needs.num_rows or 0,
            steps=needs.steps or 0,
        ),
        problems=needs.problems,
        notes=list(loaded.notes),
        arithmetic=list(explain(loaded, num_rows=needs.num_rows or None).arithmetic),
        config_yaml=config_to_yaml(config),
    )


def _as_problem(error: UserError) -> Problem:
    from oxrl_core.config.requirements import Problem

    return Problem(code=type(error).__name__, what=error.what, where=error.where, next=error.next_step)


# -------------------------------------------------------------------- runs


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
    loaded = _load(config, overrides)
    report = _report(loaded, home)
    if dry_run:
        return LaunchResult(
            run_id="",
            kind=report.kind,
            name=report.name,
            state="planned",
            total_steps=report.needs.steps if report.needs else None,
            config_hash=report.config_hash,
            plan=report,
            next=_NEXT["planned"] if report.ok else "validate_config",
        )
    existing = launch.find_by_key(home, key, report.config_hash) if key else None
    if existing is None and not report.ok:
        raise _refusal(report)
    run, created = (existing, False) if existing else launch.open_run(home, loaded, report.kind, key)
    if created or not (run.path / "status.json").exists():  # a launcher may have died before it could launch
        launch.launch(run)
    return LaunchResult(**_view(run, run.status()).model_dump(), created=created)


def _refusal(report: ConfigReport) -> ConfigError:
    problems = [problem for problem in report.problems if problem.severity == "error"]
    if len(problems) == 1:
        return ConfigError(problems[0].what, problems[0].where, problems[0].next)
    lines = [f"{problem.where}: {problem.what} ({problem.next})" for problem in problems]
    return ConfigError(f"{len(problems)} problems:\n  " + "\n  ".join(lines), report.name, "mend them and launch again")


def get_run(run_id: str, *, home: Path | None = None) -> RunView:
    """One run now; `run_id` may be a unique prefix, a name (its newest run) or `latest`."""
    run = launch.find_run(home or oxrl_home(), run_id)
    return _view(run, run.status())


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
        views.append(_view(run, status, with_alerts=False))
    return RunList(runs=views, total=total)


async def watch_run(
    run_id: str,
    *,
    until: Until = "end",
    wait_seconds: float = 45.0,
    cursor: str = "",
    home: Path | None = None,
) -> RunView:
    """The run as soon as something is worth waking up for, at the latest after `wait_seconds`; never an error for that.

    That is: it ended, a new alert, its supervisor died, it stalled; and with `until="progress"` a new step or phase.
    With the cursor of an earlier view, "new" means since that view; without one, since this call.
    """
    import asyncio  # 40 ms, which no other operation needs to pay

    run = launch.find_run(home or oxrl_home(), run_id)
    began = time.monotonic()
    view = _view(run, run.status())
    seen = _parse_cursor(cursor or view.cursor)
    signature, looked_at = _signature(run), began
    while True:
        if _is_news(view, seen, until) or time.monotonic() - began >= wait_seconds:
            if cursor:
                view.alerts = _alerts(run, seen.events_size)
            view.waited_seconds = round(time.monotonic() - began, 3)
            return view
        await asyncio.sleep(min(_POLL_SECONDS, max(0.0, began + wait_seconds - time.monotonic())))
        new_signature, now = _signature(run), time.monotonic()
        if new_signature != signature or now - looked_at > _REFRESH_SECONDS or now - began >= wait_seconds:
            signature, looked_at = new_signature, now
            view = _view(run, run.status())


def follow(run_id: str, *, refresh_seconds: float = 1.0, home: Path | None = None) -> Iterator[RunView]:
    """Views of a run until it has ended: at once, at every change, and at least every `refresh_seconds`."""
    run = launch.find_run(home or oxrl_home(), run_id)
    while True:
        signature, looked_at = _signature(run), time.monotonic()
        view = _view(run, run.status())
        yield view
        if view.has_ended:
            return
        while _signature(run) == signature and time.monotonic() - looked_at < refresh_seconds:
            time.sleep(min(_POLL_SECONDS, refresh_seconds))


def stop_run(run_id: str, *, reason: str = "", force: bool = False, home: Path | None = None) -> RunView:
    """The run after its last process has left. Blocks for its grace and a few seconds at most; harmless when repeated.

    The driver is asked to save a checkpoint and leave; `force` gives it no time for that.
    """
    run = launch.find_run(home or oxrl_home(), run_id)
    status = launch.stop(run, reason or "asked to stop", grace=0.0 if force else None)
    return _view(run, status)


def get_metrics(
    run_id: str,
    names: Sequence[str] = (),
    *,
    from_step: int = 0,
    max_points: int = 200,
    home: Path | None = None,
) -> MetricsView:
    """Metrics by step, thinned evenly to `max_points`; the summary is over all rows. No names: every metric."""
    run = launch.find_run(home or oxrl_home(), run_id)
    rows = run.metrics(from_step=from_step)
    known = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    unknown = [name for name in names if name not in known]
    if unknown and rows:
        from oxrl_core.suggest import did_you_mean

        raise NotFoundError(
            f"no metric {unknown[0]!r}.{did_you_mean(unknown[0], known)}", run.run_id, f"it has: {', '.join(known)}"
        )
    columns = ["step", *(names or known)]
    table = [[_number(row.get(name)) for name in columns] for row in rows if not names or any(n in row for n in names)]
    return MetricsView(
        run_id=run.run_id,
        columns=columns,
        rows=thin(table, max_points),
        total_rows=len(table),
        summary={name: _summary([row[i] for row in table]) for i, name in enumerate(columns) if name != "step"},
    )


def read_logs(
    run_id: str,
    *,
    cursor: int | None = None,
    lines: int = 100,
    grep: str = "",
    name: str = "driver",
    home: Path | None = None,
) -> LogView:
    """The last lines of a log, or with a cursor the next ones after it; `grep` keeps the lines that hold the text."""
    run = launch.find_run(home or oxrl_home(), run_id)
    chunk = run.read_logs(cursor, lines, grep, name)
    return LogView(
        run_id=run.run_id,
        name=name,
        lines=chunk.lines,
        cursor=chunk.cursor,
        total_bytes=chunk.total_bytes,
        names=run.log_names(),
    )


def check_environment(deep: bool = False) -> EnvironmentReport:
    """What this machine has and lacks, each with its fix; `deep` proves each engine by a one-step run."""
    from oxrl_core.runs.doctor import check_environment as check

    return check(deep)


# -------------------------------------------------------------------- views


class _Seen:
    """What the holder of a cursor knows."""

    def __init__(self, state: str, phase: str, step: int, events_size: int) -> None:
        self.state, self.phase, self.step, self.events_size = state, phase, step, events_size


def _cursor(status: Status, events_size: int) -> str:
    return f"{status.state}/{status.step}/{events_size}/{status.phase}"


def _parse_cursor(cursor: str) -> _Seen:
    try:
        state, step, events_size, phase = cursor.split("/", 3)
        return _Seen(state, phase, int(step), int(events_size))
    except ValueError:
        raise ConfigError(
            f"{cursor!r} is not a cursor of a run", "cursor", "leave it out, or pass one as given"
        ) from None


def _is_news(view: RunView, seen: _Seen, until: Until) -> bool:
    if view.has_ended:
        return True
    now = _parse_cursor(view.cursor)
    if now.state != seen.state and view.state in ("orphaned", "stalled"):
        return True
    if until == "progress" and (now.state, now.phase, now.step) != (seen.state, seen.phase, seen.step):
        return True
    return now.events_size > seen.events_size and any(_alerts_after(view, seen))


def _alerts_after(view: RunView, seen: _Seen) -> Iterator[Alert]:
    yield from _alerts(RunDir(view.path), seen.events_size)


def _alerts(run: RunDir, from_byte: int = 0) -> list[Alert]:
    return [
        Alert(
            time=_timestamp(event.get("time")),
            level=event["level"],
            code=str(event.get("code", "")),
            message=str(event.get("message", "")),
        )
        for event in run.events(from_byte, alerts_only=True)
    ][-_MAX_ALERTS:]


def _view(run: RunDir, status: Status, *, with_alerts: bool = True) -> RunView:
    spec = run.spec()
    now = time.time()
    progress = min(1.0, status.step / status.total_steps) if status.total_steps else None
    eta = None
    if status.total_steps and status.step_seconds and not status.has_ended:
        eta = max(0.0, (status.total_steps - status.step) * status.step_seconds)
    elapsed = (status.ended_at or now) - status.started_at if status.started_at else None
    events_size = run.events_size() if with_alerts else 0
    model = run.path / "final"
    return RunView(
        run_id=run.run_id,
        kind=str(spec.get("kind", "")),
        name=str(spec.get("name", "")),
        state=status.state,
        phase=status.phase,
        step=status.step,
        total_steps=status.total_steps,
        progress=None if progress is None else round(progress, 4),
        eta_seconds=None if eta is None else round(eta, 1),
        elapsed_seconds=None if elapsed is None else round(elapsed, 1),
        metrics=status.metrics,
        alerts=_alerts(run) if with_alerts else [],
        error=ErrorView(**{name: str(status.error.get(name, "")) for name in ("code", "what", "where", "next")})
        if status.error
        else None,
        log_tail=status.log_tail,
        stop_reason=status.stop_reason,
        exit_code=status.exit_code,
        path=str(run.path),
        model=str(model) if model.is_dir() else "",
        config_hash=str(spec.get("config_hash", "")),
        created_at=_timestamp(status.created_at),
        ended_at=_timestamp(status.ended_at),
        cursor=_cursor(status, events_size) if with_alerts else "",
        next=_NEXT[status.state],
    )


def _signature(run: RunDir) -> tuple[tuple[int, int], ...]:
    """Changes when a file that a view is made of changes."""
    marks: list[tuple[int, int]] = []
    for name in ("status.json", "progress.json", "events.jsonl"):
        try:
            info = (run.path / name).stat()
            marks.append((info.st_mtime_ns, info.st_size))
        except OSError:
            marks.append((0, 0))
    return tuple(marks)


def _timestamp(seconds: float | None) -> str:
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _summary(values: list[float | None]) -> MetricSummary:
    measured = [value for value in values if value is not None]
    if not measured:
        return MetricSummary(first=None, last=None, min=None, max=None)
    return MetricSummary(first=measured[0], last=measured[-1], min=min(measured), max=max(measured))
