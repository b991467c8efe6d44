"""Following a run on the terminal: a live board for a person, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from oxrl_core import api
from oxrl_core.cli.render import Format, Output, is_terminal
from oxrl_core.cli.tables import STATE_STYLES
from oxrl_core.cli.text import duration, number
from oxrl_core.sparkline import sparkline

if TYPE_CHECKING:
    from oxrl_core.runs.views import Alert, RunView

OnInterrupt = Literal["ask", "stop", "leave"]
PLAIN_EVERY_SECONDS = 5.0  # a pipe is often read by an agent, to whom every line is a cost
SHOWN_ALERTS = 3
# What the board and the plain lines show, where the run measures it.
SHOWN_METRICS = {
    "reward/mean": "reward",
    "eval/accuracy": "accuracy",
    "eval/reward": "eval reward",
    "preference/accuracy": "preferred",
    "preference/margin": "margin",
    "loss": "loss",
    "eval/loss": "eval loss",
    "kl/ref": "kl",
    "entropy": "entropy",
    "completion/length": "length",
    "tokens_per_second": "tok/s",
}


class Board(Protocol):
    """Where the views of a run appear."""

    def show(self, view: RunView, new_alerts: list[Alert]) -> None: ...


def follow_run(out: Output, run_id: str, *, on_interrupt: OnInterrupt) -> RunView:
    """The run when it has ended, or when its watcher left it running.

    Ctrl-C: `leave` leaves it running; `stop` stops it; `ask` asks on a terminal, where a second one leaves it running.
    """
    while True:
        try:
            return _follow(out, run_id)
        except KeyboardInterrupt:
            if on_interrupt == "ask" and is_terminal() and sys.stdin.isatty():
                decision = _ask()
            else:
                decision = "leave" if on_interrupt == "leave" else "stop"
        if decision == "watch":
            continue
        if decision == "stop":
            out.note("stopping: the run saves a checkpoint and leaves (Ctrl-C: do not wait for it)")
            try:
                return api.stop_run(run_id, reason="interrupted at the terminal")
            except KeyboardInterrupt:
                pass  # said below
        out.note(f"left alone. watch: oxrl run watch {run_id}   stop: oxrl run stop {run_id}")
        return api.get_run(run_id)


def _ask() -> Literal["stop", "leave", "watch"]:
    """What to do with the run after a first Ctrl-C; a second one leaves it running."""
    try:
        answer = input("\nStop the run? Enter: stop it cleanly, w: go on watching, Ctrl-C: leave it running ")
    except (KeyboardInterrupt, EOFError):
        sys.stdout.write("\n")
        return "leave"
    return "watch" if answer.strip().lower().startswith("w") else "stop"


def exit_code_of(view: RunView) -> int:
    """The exit code of an ended run, as a shell says it: 128 + n after signal n."""
    if view.state == "finished":
        return 0
    if view.exit_code is None or view.exit_code == 0:
        return 1
    return view.exit_code if view.exit_code > 0 else 128 - view.exit_code


def _follow(out: Output, run_id: str) -> RunView:
    """The ended run; every view on the way is shown."""
    seen_alerts: set[tuple[str, str, str]] = set()
    view: RunView | None = None
    with _board(out, run_id) as board:
        for view in api.follow(run_id):
            fresh = [alert for alert in view.alerts if (alert.time, alert.code, alert.message) not in seen_alerts]
            seen_alerts.update((alert.time, alert.code, alert.message) for alert in fresh)
            board.show(view, fresh)
    assert view is not None, "api.follow gives at least one view"
    return view


@contextmanager
def _board(out: Output, run_id: str) -> Generator[Board]:
    if out.format is Format.human and is_terminal():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(highlight=False), refresh_per_second=8, transient=True) as live:
            yield LiveBoard(live.update, _course(run_id))
    elif out.format in (Format.human, Format.agent):
        yield PlainBoard(out.write)
    else:
        yield SilentBoard()


def _course(run_id: str) -> dict[int, float | None]:
    """The metric of the sparkline by step so far, for a run that began before its watcher."""
    metrics = api.get_metrics(run_id, max_points=1000)
    name = _main_metric(metrics.columns)
    column = metrics.columns.index(name) if name else 0
    return {int(row[0] or 0): row[column] for row in metrics.rows} if name else {}


def _main_metric(names: Any) -> str:
    """What a person wants to see move: the reward, else the loss."""
    return next((name for name in ("reward/mean", "loss") if name in names), "")


class SilentBoard:
    """Shows nothing: the caller prints the ended run."""

    def show(self, view: RunView, new_alerts: list[Alert]) -> None:
        """Nothing."""


class PlainBoard:
    """One line at a change of state or phase, at an alert, and every few seconds of progress."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._last: tuple[str, str] = ("", "")
        self._step = -1
        self._written_at = float("-inf")

    def show(self, view: RunView, new_alerts: list[Alert]) -> None:
        """Writes what is new."""
        for alert in new_alerts:
            self._write(f"{alert.level} {alert.code}: {alert.message}")
        changed = (view.state, view.phase) != self._last and view.state != self._last[0]
        due = view.step != self._step and self._clock() - self._written_at >= PLAIN_EVERY_SECONDS
        if not changed and not due and not view.has_ended:
            return
        self._last, self._step, self._written_at = (view.state, view.phase), view.step, self._clock()
        self._write(plain_line(view))


def plain_line(view: RunView) -> str:
    """One view as one line: state, phase, step, metrics, time left."""
    parts = [view.state]
    if view.phase and view.phase != view.state:
        parts.append(view.phase)
    if view.step or view.total_steps:
        parts.append(f"step {view.step}" + (f"/{view.total_steps}" if view.total_steps else ""))
    parts += [f"{label} {number(view.metrics[name])}" for name, label in SHOWN_METRICS.items() if name in view.metrics]
    if view.elapsed_seconds is not None:
        parts.append(duration(view.elapsed_seconds))
    if view.eta_seconds:
        parts.append(f"{duration(view.eta_seconds)} left")
    return "  ".join(parts)


class LiveBoard:
    """A board that is redrawn in place: progress, the course of the reward, metrics, alerts."""

    def __init__(self, update: Callable[[Any], None], course: dict[int, float | None]) -> None:
        self._update = update
        self._course = course
        self._alerts: list[Alert] = []

    def show(self, view: RunView, new_alerts: list[Alert]) -> None:
        """Redraws the board."""
        self._alerts = [*self._alerts, *new_alerts][-SHOWN_ALERTS:]
        name = _main_metric(view.metrics)
        if name:
            self._course[view.step] = view.metrics[name]
        self._update(draw_board(view, name, list(self._course.values()), self._alerts))


def draw_board(view: RunView, name: str, course: list[float | None], alerts: list[Alert]) -> Any:
    """The board of one view, for rich."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        (view.run_id, "bold"),
        "  ",
        (view.state, STATE_STYLES.get(view.state, "")),
        f", {view.phase}" if view.phase not in ("", view.state) else "",
        no_wrap=True,
        overflow="ellipsis",
    )
    times = duration(view.elapsed_seconds)
    if view.eta_seconds:
        times += f", {duration(view.eta_seconds)} left"
    bar = Table.grid(padding=(0, 1), expand=False)
    steps = f"{view.step}/{view.total_steps}" if view.total_steps else str(view.step)
    progress = ProgressBar(
        total=view.total_steps or 1, completed=view.step, width=32, pulse=not view.step, animation_time=time.monotonic()
    )
    bar.add_row(progress, steps, times)
    lines: list[Any] = [head, bar]
    if name:
        label = SHOWN_METRICS[name]
        line = f"{label} {number(view.metrics[name])}  {sparkline(course, 48)}"
        lines.append(Text(line, style="green", no_wrap=True, overflow="crop"))
    others = [
        f"{label} {number(view.metrics[key])}"
        for key, label in SHOWN_METRICS.items()
        if key in view.metrics and key != name
    ]
    if others:
        lines.append(Text("  ".join(others), style="dim"))
    lines += [Text(f"{alert.level}: {alert.message}", style=STATE_STYLES[alert.level]) for alert in alerts]
    return Group(*lines)
