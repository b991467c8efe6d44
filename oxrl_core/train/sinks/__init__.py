"""Trackers that metrics go to beside metrics.jsonl, each through its own library. One module each: open_sink(facts).

A sink can neither stop nor slow a run: each has a thread and a bounded queue of its own; what does not fit is dropped,
and an error makes one alert. The library is imported in that thread too, once the first step is done.
"""

from __future__ import annotations

import importlib
import math
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from oxrl_core.config.mappings import flatten
from oxrl_core.config.sinks import chosen_sinks
from oxrl_core.redact import Redactor

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.runs.rundir import RunDir

WAITING_ROWS = 1000  # rows that may wait: hours of slow steps, or some seconds of quick ones
OPENED_AT = 2  # rows: a library takes seconds to import, and the first step should not share the processor with it
CLOSE_SECONDS = 10.0  # for all sinks together, once the run is over


class Sink(Protocol):
    """One tracker, open for one run."""

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Files the metrics of a step; `seconds` is the time of day."""

    def close(self) -> None:
        """Makes what was written last."""


@dataclass(frozen=True)
class RunFacts:
    """What a tracker may know of a run."""

    run_id: str
    project: str
    home: Path
    path: Path
    config: Mapping[str, str | int | float | bool | None]  # flat, without secrets


def facts_of(run: RunDir, config: Config) -> RunFacts:
    """The run as trackers see it: configuration by dotted key, secrets masked."""
    redactor = Redactor.of_this_machine(os.environ)
    flat = flatten(config.model_dump(mode="json"))
    plain = {
        key: value if isinstance(value, bool | int | float) or value is None else redactor.text(str(value))
        for key, value in flat.items()
    }
    return RunFacts(run.run_id, config.report.project, run.home, run.path, plain)


class Sinks:
    """All trackers of a run; none where none is configured."""

    def __init__(self, run: RunDir, config: Config) -> None:
        names = chosen_sinks(config.report.sinks)
        facts = facts_of(run, config) if names else None
        self._pumps = [_Pump(name, run, facts) for name in names if facts is not None]

    def write(self, row: Mapping[str, Any]) -> None:
        """Hands a row of metrics.jsonl to every tracker, and returns at once."""
        for pump in self._pumps:
            pump.put(row)

    def close(self) -> None:
        """Waits, bounded, until the trackers have what was written."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for pump in self._pumps:
            pump.end()
        for pump in self._pumps:
            pump.join(deadline)
        self._pumps = []


class _Pump:
    """One tracker with its queue and its thread."""

    def __init__(self, name: str, run: RunDir, facts: RunFacts) -> None:
        self._name = name
        self._run = run
        self._facts = facts
        self._rows: queue.Queue[Mapping[str, Any] | None] = queue.Queue(WAITING_ROWS)
        self._said: set[str] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def put(self, row: Mapping[str, Any]) -> None:
        if self._thread.is_alive():
            try:
                self._rows.put_nowait(row)
            except queue.Full:
                self._say(
                    "sink_behind", f"{self._name} is too slow: rows are dropped there; metrics.jsonl has them all"
                )

    def end(self) -> None:
        self._is_over.set()

    def join(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._say("sink_late", f"{self._name} did not finish in time: its last rows may be missing there")

    def _work(self) -> None:
        while self._rows.qsize() < OPENED_AT and not self._is_over.wait(0.2):
            pass
        try:
            module = importlib.import_module(f"{__name__}.to_{self._name}")
            sink: Sink = module.open_sink(self._facts)
        except Exception as error:  # a tracker is somebody else's code: whatever it raises must not reach the run
            self._fail("could not be opened", error)
            return
        while (row := self._next()) is not None:
            step, seconds = int(row["step"]), float(row["time"])
            metrics = {
                name: float(value)
                for name, value in row.items()
                if name not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value)
            }
            try:
                sink.write(step, seconds, metrics)
            except Exception as error:  # as above; the next row may well go through
                self._fail(f"did not take step {step}", error)
        try:
            sink.close()
        except Exception as error:  # as above
            self._fail("could not be closed", error)

    def _next(self) -> Mapping[str, Any] | None:
        """The next row; None once the run is over and every row was taken."""
        while True:
            try:
                return self._rows.get(timeout=0.2)
            except queue.Empty:
                if self._is_over.is_set():
                    return None

    def _fail(self, what: str, error: Exception) -> None:
        text = Redactor.of_this_machine(os.environ).text(f"{type(error).__name__}: {error}").splitlines()[0][:300]
        self._say("sink_failed", f"{self._name} {what} ({text}); the run goes on, metrics.jsonl has every row")

    def _say(self, code: str, message: str) -> None:
        if code not in self._said:
            self._said.add(code)
            self._run.append_event("warning", code, message, sink=self._name)
