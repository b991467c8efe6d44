"""A run that lives and achieves nothing: when it counts as stalled, and where each of its processes stands then.

`python -m oxrl_core.runs.supervision.stall RUN_DIR FOLDER PID:START ...` writes one file a process: its state and the
function in the kernel that it waits in, from /proc, and the Python stacks of all its threads, by py-spy. Where py-spy
is missing or may not look, a process that has a handler for it is asked by a signal to write its stacks itself.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oxrl_core.runs import process
from oxrl_core.runs.clock import is_before, seconds_since
from oxrl_core.runs.process import ProcessIdentity

DUMP_SECONDS = 30.0  # of all processes together
_PROCESS_SECONDS = 8.0  # of one
_ANSWER_SECONDS = 1.0  # for stacks that a process writes itself
_STACK_SIGNAL = signal.SIGUSR2  # drivers and workers register it with faulthandler


@dataclass(frozen=True)
class StallLimits:
    """How long a phase may last without progress."""

    stall_seconds: float = 300.0
    start_seconds: float = 1800.0

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> StallLimits:
        """The limits that a run was launched with."""
        return cls(
            float(spec.get("stall_seconds") or cls.stall_seconds),
            float(spec.get("start_stall_seconds") or cls.start_seconds),
        )

    def limit(self, progress: Mapping[str, Any]) -> float:
        """Ten times what a step, or this phase, takes as a rule, and never below the floor.

        A phase that has not come to its end once may be loading, compiling or downloading: it has the start's time.
        """
        usual = max(float(progress.get("step_seconds") or 0), float(progress.get("phase_seconds") or 0))
        floor = self.stall_seconds if progress.get("phase_seconds") is not None else self.start_seconds
        return max(floor, 10 * usual)


def own_progress(progress: Mapping[str, Any], record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The progress of the driver that was started last; empty where it was written by one before it, or not at all."""
    return {} if not progress or is_before(progress, record.get("attempt") or {}) else progress


def quiet_seconds(progress: Mapping[str, Any], record: Mapping[str, Any]) -> float:
    """Seconds since the present driver achieved something, or was started."""
    mine = own_progress(progress, record)
    return seconds_since(mine or record.get("attempt") or {"time": record.get("started_at") or time.time()})


def dump_stacks(run_folder: Path, folder: Path, identities: Iterable[ProcessIdentity]) -> int:
    """The number of processes whose stacks are in the folder, one file each. Takes DUMP_SECONDS at most."""
    folder.mkdir(parents=True, exist_ok=True)
    give_up_at = time.monotonic() + DUMP_SECONDS
    py_spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    written = 0
    mute: list[ProcessIdentity] = []
    for identity in identities:
        facts = _facts(identity)
        if facts is None:
            continue  # it ended meanwhile
        name, text = facts
        seconds = min(_PROCESS_SECONDS, give_up_at - time.monotonic())
        stacks, complaint = _python_stacks(py_spy, identity, seconds)
        if not stacks:
            mute.append(identity)
        (folder / f"{identity.pid}-{name}.txt").write_text(f"{text}\n{stacks or complaint}\n", encoding="utf-8")
        written += 1
    _ask_for_stacks(run_folder / "logs", folder, mute)
    return written


def _facts(identity: ProcessIdentity) -> tuple[str, str] | None:
    """The name of a process for a file, and what /proc says of it."""
    if not process.is_alive(identity):
        return None
    facts: list[str] = []
    name = "process"
    for part in ("comm", "cmdline", "wchan", "stack", "status"):
        try:
            text = Path(f"/proc/{identity.pid}/{part}").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError as error:
            facts.append(f"{part}: {error.strerror}")  # the kernel's stack is for root alone
            continue
        if part == "comm":
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", text.strip())[:40] or name
        if part == "status":
            told = ("State", "PPid", "Threads", "VmRSS")
            text = "\n".join(line for line in text.splitlines() if line.startswith(told))
        facts.append(f"{part}: {text.strip()}")
    return name, "\n".join(facts)


def _python_stacks(py_spy: str | None, identity: ProcessIdentity, seconds: float) -> tuple[str, str]:
    """The stacks of a Python process, or why there are none."""
    try:
        program = Path(f"/proc/{identity.pid}/exe").readlink().name
    except OSError as error:
        return "", f"no stacks: {error.strerror}"
    if "python" not in program and "ray" not in program:
        return "", "no stacks: it is no Python process"
    if py_spy is None:
        return "", "no stacks: py-spy is not installed"
    if seconds <= 0:
        return "", "no stacks: the time for the dump was used up"
    # It reads the memory of a process that goes on: nobody is left stopped where the dump itself is cut short.
    command = [py_spy, "dump", "--nonblocking", "--pid", str(identity.pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"no stacks: {error}"
    return (done.stdout, "") if done.returncode == 0 and "Thread" in done.stdout else ("", f"no stacks: {done.stderr}")


def _ask_for_stacks(logs: Path, folder: Path, identities: Iterable[ProcessIdentity]) -> None:
    """Let processes write their stacks into their own logs, and copy what they wrote."""
    asked = [identity for identity in identities if _handles(identity.pid, _STACK_SIGNAL)]
    if not asked:
        return
    sizes = {path: path.stat().st_size for path in logs.glob("*.log")}
    for identity in asked:
        process.send_signal(identity, _STACK_SIGNAL)
    time.sleep(_ANSWER_SECONDS)
    said: list[str] = []
    for path in sorted(logs.glob("*.log")):
        with path.open("rb") as file:
            file.seek(sizes.get(path, 0))
            new = file.read(1 << 20).decode(errors="replace")
        if "most recent call first" in new:
            said.append(f"==> {path.name}\n{new}")
    if said:
        (folder / "from-logs.txt").write_text("\n".join(said), encoding="utf-8")


def _handles(pid: int, signum: int) -> bool:
    """Whether a process has a handler for a signal: without one it would end it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signum - 1) & 1)


def main() -> None:
    """Dump the processes that are named, and those alone."""
    own = process.identify(os.getpid())
    assert own is not None
    words = (word.split(":") for word in sys.argv[3:])
    identities = [ProcessIdentity(int(pid), int(start), own.boot, own.host) for pid, start in words]
    dump_stacks(Path(sys.argv[1]), Path(sys.argv[2]), [one for one in identities if one.pid != own.pid])


if __name__ == "__main__":
    main()
