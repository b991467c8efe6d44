"""How a driver ended and why, and whether it is worth starting it again."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oxrl_core.errors import MachineError
from oxrl_core.runs.machine.disk import disk_error
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import read_error

RESTARTABLE = frozenset({"Killed", "Crashed", "WorkerDied", "Vanished"})  # what may well go right the next time
HUNG = frozenset({"Stalled", "DeadlineError"})  # with run.on_stall: restart, these as well
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_SIGNAL_HINTS: dict[int, str] = {
    signal.SIGSEGV: "a native library crashed; the last lines of the log may hold its stack",
    signal.SIGBUS: "often a full /dev/shm or a file that shrank under a memory map",
    signal.SIGABRT: "a native library gave up; the last lines of the log say why",
    signal.SIGILL: "a binary was built for another processor",
}


def count_oom_kills() -> int:
    """Processes that the kernel has killed on this machine for want of memory since it booted."""
    try:
        with Path("/proc/vmstat").open(encoding="ascii") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        return 0  # a kernel that does not tell
    return 0


def start_failure(error: MachineError | OSError, run: RunDir) -> dict[str, str]:
    """The error of a run whose driver could not be started."""
    return (error if isinstance(error, MachineError) else disk_error(error, run.path)).as_dict()


def failure_of(run: RunDir, exit_code: int | None, tail: Sequence[str], oom_kills: int) -> dict[str, str]:
    """Why a driver failed: in its own words where it left some, else by its exit code. None: nobody could ask for it.

    `tail` is the end of its log, `oom_kills` how often the kernel killed for want of memory meanwhile.
    """
    said = read_error(run.path)
    if said is not None:
        return said
    log, see = str(run.logs / "driver.log"), f"oxrl run logs {run.run_id}"
    if exit_code is None:
        return {
            "code": "Vanished",
            "what": "the driver ended without a last word, and the supervisor that knew its exit code had died",
            "where": log,
            "next": see,
        }
    number = -exit_code if exit_code < 0 else exit_code - 128 if 128 < exit_code < 128 + signal.NSIG else 0
    if number == signal.SIGKILL:
        evidence = (
            f"the kernel killed {oom_kills} processes of this machine for want of memory during the run"
            if oom_kills > 0
            else "the kernel reports no kill for want of memory; a container's limit or a person is possible"
        )
        return {
            "code": "Killed",
            "what": f"the driver was killed by SIGKILL (out of memory?): {evidence}",
            "where": log,
            "next": "if it was memory: smaller train.micro_batch_tokens, rollout.cpu_kv_cache_gib or model",
        }
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return {
            "code": "Crashed",
            "what": f"the driver was ended by {name}: {_SIGNAL_HINTS.get(number, 'see its log')}",
            "where": log,
            "next": see,
        }
    last, advice = _last_words(tail)
    return {
        "code": "Exited",
        "what": f"the driver exited with code {exit_code}; {f'its last words: {last}' if last else 'it said nothing'}",
        "where": log,
        "next": advice or see,
    }


def why_final(
    spec: Mapping[str, Any], error: Mapping[str, str], place: Sequence[Any], failures: Sequence[Mapping[str, Any]]
) -> str:
    """Why a failed driver is not started again; empty: it is. `place` is its phase and step, `failures` the earlier."""
    restarts = int(spec.get("max_restarts") or 0)
    code = error["code"]
    if code not in RESTARTABLE and not (code in HUNG and spec.get("on_stall") == "restart"):
        return f"a {code} would come again"
    if not restarts:
        return "run.max_restarts is 0"
    if len(failures) >= restarts:
        return f"it was started again {restarts} times (run.max_restarts)"
    if failures and [failures[-1]["code"], failures[-1]["place"]] == [code, list(place)]:
        return f"the same failure ({code}) came twice at the same place ({place[0] or 'the start'}, step {place[1]})"
    return ""


def wait_before_restart(failures: int) -> float:
    """Seconds before the next start after so many failures: what is broken for a moment is given one."""
    return min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** (failures - 1))


def _last_words(tail: Sequence[str]) -> tuple[str, str]:
    """The line of the log that most likely says why, an error's or else the last one, and the advice below it."""
    for index in reversed(range(len(tail))):
        if re.match(r"^(?:error: |(?:\w+\.)*\w*(?:Error|Exception|Failure|Interrupt|Exit)\b)", tail[index]):
            advice = next((line for line in tail[index + 1 :] if line.startswith("  next: ")), "")
            return tail[index], advice.removeprefix("  next: ")
    return next((line for line in reversed(tail) if line.strip()), ""), ""
