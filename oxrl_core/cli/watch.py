"""Following a run on the terminal: a live board for a person, plain lines in a pipe."""

from __future__ import annotations

import json
import os
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
SAMPLE_EVERY_SECONDS = 5.0
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


def follow_run(out: Output, run_id: str, *, on_interrupt: OnInterrupt, json_lines: bool = False) -> RunView:
    """The run when it has ended, or when its watcher left it running. `json_lines`: in JSON, every view is a line.

    Ctrl-C: `leave` leaves it running; `stop` stops it; `ask` asks on a terminal, where a second one leaves it running.
    """
    while True:
        try:
            return _follow(out, run_id, json_lines)
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


def _follow(out: Output, run_id: str, json_lines: bool) -> RunView:
    """The ended run; every view on the way is shown."""
    seen_alerts: set[tuple[str, str, str]] = set()
    view: RunView | None = None
    with _board(out, run_id, json_lines) as board:
        for view in api.follow(run_id):
            fresh = [alert for alert in view.alerts if (alert.time, alert.code, alert.message) not in seen_alerts]
            seen_alerts.update((alert.time, alert.code, alert.message) for alert in fresh)
            board.show(view, fresh)
    assert view is not None, "api.follow gives at least one view"
    return view


@contextmanager
def _board(out: Output, run_id: str, json_lines: bool) -> Generator[Board]:
    if out.format is Format.human and is_terminal():
        from rich.console import Console
        from rich.live import Live

        board = LiveBoard(_courses(run_id))
        with Live(board, console=Console(highlight=False), refresh_per_second=4, transient=True):
            yield board
    elif out.format in (Format.human, Format.agent):
        yield PlainBoard(out.write)
    elif out.format is Format.json and json_lines:
        yield JsonBoard(out.write)
    else:
        yield SilentBoard()


def _courses(run_id: str) -> dict[str, dict[int, float | None]]:
    """The metrics of the board by step so far, for a run that began before its watcher."""
    metrics = api.get_metrics(run_id, max_points=1000)
    places = {name: metrics.columns.index(name) for name in SHOWN_METRICS if name in metrics.columns}
    return {
        name: {int(row[0] or 0): row[place] for row in metrics.rows if row[place] is not None}
        for name, place in places.items()
    }


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


class JsonBoard:
    """One line of JSON at every change of state, phase or step, and at every alert."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._cursor = ""

    def show(self, view: RunView, new_alerts: list[Alert]) -> None:
        """Writes the view where something in it is new."""
        if view.cursor != self._cursor or new_alerts or view.has_ended:
            self._cursor = view.cursor
            self._write(json_line(view))


def json_line(view: RunView) -> str:
    """One view as one line of JSON."""
    return json.dumps(view.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)


class LiveBoard:
    """A board that is redrawn in place and fits whatever terminal it finds: rich asks it anew at every refresh."""

    def __init__(
        self, courses: dict[str, dict[int, float | None]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._courses = courses
        self._clock = clock
        self._alerts: list[Alert] = []
        self._view: RunView | None = None
        self._sample: dict[str, Any] | None = None
        self._sampled_at = float("-inf")

    def show(self, view: RunView, new_alerts: list[Alert]) -> None:
        """Takes a view; the next refresh draws it."""
        self._alerts = [*self._alerts, *new_alerts][-SHOWN_ALERTS:]
        for name, value in view.metrics.items():
            if name in SHOWN_METRICS:
                self._courses.setdefault(name, {})[view.step] = value
        if self._clock() - self._sampled_at >= SAMPLE_EVERY_SECONDS and view.path:
            self._sample, self._sampled_at = _newest_sample(view) or self._sample, self._clock()
        self._view = view

    def __rich_console__(self, console: Any, options: Any) -> Generator[Any]:
        if self._view is not None:
            width, height = console.size
            yield from board_lines(self._view, self._courses, self._alerts, self._sample, width, height - 1)


def _newest_sample(view: RunView) -> dict[str, Any] | None:
    """The best rollout of the newest step on disk; None where none is recorded or nothing here can read it."""
    from oxrl_core.redact import Redactor
    from oxrl_core.runs.analysis.samples import last_sample
    from oxrl_core.runs.rundir import RunDir

    return last_sample(RunDir(view.path), Redactor.of_this_machine(os.environ)) if view.kind == "rl" else None


def board_lines(
    view: RunView,
    courses: dict[str, dict[int, float | None]],
    alerts: list[Alert],
    sample: dict[str, Any] | None,
    width: int,
    height: int,
) -> list[Any]:
    """The board as lines of rich text: at most `height` of them, none wider than `width`."""
    lines = [_head(view), _bar(view, width)]
    room = height - len(lines)
    warnings = [_alert(alert) for alert in alerts[-max(0, min(SHOWN_ALERTS, room)) :]] if room > 0 else []
    room -= len(warnings)
    spoken = _sample(sample) if sample is not None and room >= 5 else []
    room -= len(spoken)
    named = [name for name in SHOWN_METRICS if name in view.metrics or name in courses]
    rows = [_metric(name, view, courses.get(name, {}), width) for name in named[: max(0, room)]]
    room -= len(rows)
    for block in (rows, warnings, spoken):
        if block and room > 0:  # air, where there is room for it
            lines.append(_line(("", "")))
            room -= 1
        lines += block
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[: max(1, height)]


def _line(*parts: tuple[str, str]) -> Any:
    from rich.text import Text

    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis", end="\n")


def _head(view: RunView) -> Any:
    phase = f", {view.phase}" if view.phase not in ("", view.state) else ""
    return _line((view.run_id, "bold"), ("  ", ""), (view.state, STATE_STYLES.get(view.state, "")), (phase, ""))


def _bar(view: RunView, width: int) -> Any:
    """Progress, steps, and the time that is gone and left; the bar takes what the words leave."""
    steps = f"{view.step}/{view.total_steps}" if view.total_steps else f"step {view.step}"
    times = duration(view.elapsed_seconds) + (f", {duration(view.eta_seconds)} left" if view.eta_seconds else "")
    share = min(1.0, view.step / view.total_steps) if view.total_steps else 0.0
    cells = min(40, width - len(steps) - len(times) - 4)
    if cells < 6 or not view.total_steps:
        return _line((f"{steps}  {times}", ""))
    done = round(share * cells)
    return _line(("━" * done, "cyan"), ("━" * (cells - done), "bright_black"), (f"  {steps}  {times}", ""))


def _metric(name: str, view: RunView, course: dict[int, float | None], width: int) -> Any:
    """A metric's name, newest value and course."""
    values = [course[step] for step in sorted(course)]
    newest = view.metrics.get(name, values[-1] if values else None)
    parts = [(f"{SHOWN_METRICS[name]:<11} ", "dim"), (f"{number(newest):>9}", "bold")]
    cells = min(60, width - 23)
    if cells >= 6 and len(values) > 1:
        parts.append((f"  {sparkline(values, cells)}", "green" if name == _main_metric(view.metrics) else "blue"))
    return _line(*parts)


def _alert(alert: Alert) -> Any:
    return _line((f"{alert.level} ", STATE_STYLES[alert.level]), (f"{alert.code}: {_flat(alert.message)}", ""))


def _sample(sample: dict[str, Any]) -> list[Any]:
    reward = "" if sample["reward"] is None else f", reward {number(float(sample['reward']))}"
    return [
        _line((f"best of step {sample['step']}{reward}  ", "dim"), (_flat(sample["prompt"]), "")),
        _line(("  ", ""), (_flat(sample["completion"]), "cyan")),
    ]


def _flat(text: str) -> str:
    return " ⏎ ".join(part for part in text.splitlines() if part.strip())
