"""The supervisor's eye on a driver that lives: is anything achieved, and if not, what stands where."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any, Literal

from oxrl_core.runs import process
from oxrl_core.runs.logs import say_aside
from oxrl_core.runs.process import RUN_ID_VARIABLE, ProcessIdentity
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.supervision.stall import DUMP_SECONDS, StallLimits, own_progress, quiet_seconds

Policy = Literal["", "stop", "restart"]
_DUMP_START_SECONDS = 10.0  # for the interpreter of the dump, on a busy machine


@dataclass(frozen=True)
class Stall:
    """A stretch without progress."""

    phase: str
    seconds: float
    stacks: Path


class StallWatch:
    """Tells a stall once, writes everybody's stacks down, and then says what the run's policy wants."""

    def __init__(self, run: RunDir, spec: Mapping[str, Any], event: Callable[..., None]) -> None:
        self.run = run
        self.limits = StallLimits.of(spec)
        self.policy = str(spec.get("on_stall") or "alert")
        self.event = event
        self.stall: Stall | None = None  # the present one
        self._dump: ProcessIdentity | None = None  # the process that writes the stacks
        self._dump_until = 0.0

    def look(
        self, progress: Mapping[str, Any], record: Mapping[str, Any], members: Callable[[], list[ProcessIdentity]]
    ) -> Policy:
        """What to do about the driver now; nothing while it moves, or while its stacks are being written."""
        mine = own_progress(progress, record)
        quiet, limit = quiet_seconds(progress, record), self.limits.limit(mine)
        if quiet <= limit:
            if self.stall is not None:
                self.event("info", "moving_again", f"moving again after the stall in phase {self.stall.phase}")
            self.stall = None
            return ""
        if self.stall is None:
            self._tell(mine, quiet, limit, members())
        if self._dump is not None:
            return ""
        return self.policy if self.policy in ("stop", "restart") else ""

    def _tell(self, progress: Mapping[str, Any], quiet: float, limit: float, members: list[ProcessIdentity]) -> None:
        phase = str(progress.get("phase") or "starting")
        folder = self.run.path / "stalls" / time.strftime("%y%m%d-%H%M%S")
        self.stall = Stall(phase, quiet, folder)
        self.event(
            "error",
            "stalled",
            f"no progress for {quiet:.0f} s in phase {phase} (limit {limit:.0f} s); stacks: {folder}",
            phase=phase,
            step=progress.get("step"),
            seconds=round(quiet, 1),
            limit=round(limit, 1),
            stacks=str(folder),
            policy=self.policy,
            next=f"read {folder}, then oxrl run stop {self.run.run_id}; run.on_stall can do it by itself",
        )
        words = [f"{identity.pid}:{identity.start}" for identity in members]
        # In a process of its own: the supervisor goes on to beat, and to hear a wish to stop.
        command = [
            sys.executable,
            "-P",
            "-m",
            "oxrl_core.runs.supervision.stall",
            str(self.run.path),
            str(folder),
            *words,
        ]
        environment = {**os.environ, RUN_ID_VARIABLE: self.run.run_id}
        try:
            dump = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        except OSError as error:
            say_aside(f"stacks not written: {error}")
            return
        dump.returncode = 0  # the supervisor reaps it with all its other children
        self._dump = process.identify(dump.pid)
        self._dump_until = time.monotonic() + DUMP_SECONDS + _DUMP_START_SECONDS

    def tick(self) -> None:
        """Forget a dump that is done, and end one that takes too long."""
        if self._dump is None:
            return
        if not process.is_alive(self._dump):
            self._dump = None
        elif time.monotonic() > self._dump_until:
            process.send_signal(self._dump, SIGKILL)

    def failure(self) -> dict[str, str]:
        """The error of a driver that was ended for its stall."""
        assert self.stall is not None
        return {
            "code": "Stalled",
            "what": f"no progress for {self.stall.seconds:.0f} s in phase {self.stall.phase}",
            "where": str(self.stall.stacks),
            "next": "the files there show where each thread stood; run.stall_seconds raises the limit",
        }
