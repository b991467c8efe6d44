"""Views of a run: what every operation shows of it."""

from __future__ import annotations

from datetime import UTC, datetime

from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import Status
from oxrl_core.runs.views import Alert, ErrorView, RunView

_MAX_ALERTS = 10
NEXT = {
    "planned": "launch_run",
    "queued": "watch_run",
    "starting": "watch_run",
    "running": "watch_run",
    "stopping": "watch_run",
    "stalled": "read_logs",
    "orphaned": "stop_run",
    "finished": "get_metrics",
    "stopped": "get_metrics",
    "needs_input": "steer_onboarding",
    "failed": "diagnose_run",
    "lost": "resume_run",
}


def next_of(kind: str, state: str) -> str:
    """The operation to call now. What a run of another kind came to stands in its view, not in metrics."""
    if state == "finished" and kind in ("replay", "evaluate", "onboard"):
        return "get_run"
    return NEXT[state]


def alerts_of(run: RunDir, from_byte: int = 0) -> list[Alert]:
    return [
        Alert(
            time=timestamp(event.get("time")),
            level=event["level"],
            code=str(event.get("code", "")),
            message=str(event.get("message", "")),
        )
        for event in run.events(from_byte, alerts_only=True)
    ][-_MAX_ALERTS:]


def view_of(run: RunDir, status: Status, *, with_alerts: bool = True) -> RunView:
    spec = run.spec()
    progress = min(1.0, status.step / status.total_steps) if status.total_steps else None
    eta = None
    if status.total_steps and status.step_seconds and not status.has_ended:
        eta = max(0.0, (status.total_steps - status.step) * status.step_seconds)
    elapsed = status.elapsed_seconds
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
        restarts=status.restarts,
        metrics=status.metrics,
        alerts=alerts_of(run) if with_alerts else [],
        error=ErrorView(**{name: str(status.error.get(name, "")) for name in ("code", "what", "where", "next")})
        if status.error
        else None,
        log_tail=status.log_tail,
        stop_reason=status.stop_reason,
        exit_code=status.exit_code,
        path=str(run.path),
        model=str(model) if model.is_dir() else "",
        config_hash=str(spec.get("config_hash", "")),
        created_at=timestamp(status.created_at),
        ended_at=timestamp(status.ended_at),
        cursor=cursor_of(status, events_size) if with_alerts else "",
        next=next_of(str(spec.get("kind", "")), status.state),
    )


def cursor_of(status: Status, events_size: int) -> str:
    return f"{status.state}/{status.step}/{events_size}/{status.phase}"


def timestamp(seconds: float | None) -> str:
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
