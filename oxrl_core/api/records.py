"""What a run wrote down: metrics and logs; and what the machine has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oxrl_core.errors import NotFoundError
from oxrl_core.runs import launch
from oxrl_core.runs.records import thin
from oxrl_core.runs.rundir import oxrl_home
from oxrl_core.runs.views import EnvironmentReport, LogView, MetricSummary, MetricsView


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
    measured: dict[str, Any] = {}
    for row in rows:
        measured.update(row)
    known = [name for name in measured if name != "step"]
    unknown = [name for name in names if name not in known]
    if unknown and rows:
        from oxrl_core.suggest import did_you_mean

        raise NotFoundError(
            f"no metric {unknown[0]!r}.{did_you_mean(unknown[0], known)}", run.run_id, f"it has: {', '.join(known)}"
        )
    columns = ["step", *(names or known)]
    wanted = set(names)
    asked = (row for row in rows if not names or not wanted.isdisjoint(row))
    table = [[value if type(value) is float else _number(value) for value in map(row.get, columns)] for row in asked]
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
    from oxrl_core.runs.machine.doctor import check_environment as check

    return check(deep)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _summary(values: list[float | None]) -> MetricSummary:
    measured = [value for value in values if value is not None]
    if not measured:
        return MetricSummary(first=None, last=None, min=None, max=None)
    return MetricSummary(first=measured[0], last=measured[-1], min=min(measured), max=max(measured))
