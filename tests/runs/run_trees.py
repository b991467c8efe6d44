"""Driver scripts of the tests of supervision, and what looks at the processes that they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from oxrl_core.runs import launch, process
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import Status

MakeRun = Callable[..., RunDir]

SLEEP = "import time; print('here', flush=True); time.sleep(600)"

# Ignores SIGTERM, has a child in another session, and a double-forked daemon that ignores SIGTERM too and hides its
# environment. Writes the pids.
NASTY_TREE = """
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = [os.getpid()]
pids.append(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
read_end, write_end = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write_end, str(os.getpid()).encode())
        os.close(write_end)
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        os.execve(sys.executable, [sys.executable, "-c", code], {})
    os._exit(0)
os.wait()
pids.append(int(os.read(read_end, 20)))
with open(sys.argv[0] + ".pids.tmp", "w") as file:
    json.dump(pids, file)
os.replace(sys.argv[0] + ".pids.tmp", sys.argv[0] + ".pids")
time.sleep(600)
"""


def alive_of(run: RunDir) -> list[int]:
    """The pids that carry the run's id in their environment."""
    return [identity.pid for identity in process.members_by_run().get(run.run_id, [])]


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of the condition; an assertion error after the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return value


def wait_until_ended(run: RunDir, seconds: float = 20.0) -> Status:
    wait_for(lambda: run.status().has_ended, seconds)
    return run.status()


def exists(pid: int) -> bool:
    identity = process.identify(pid)
    return identity is not None and process.is_alive(identity)


def end(pid: int) -> None:
    """End and bury a child of the test itself."""
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def open_files(pid: int) -> set[str]:
    """What a process has open, its own wake-up pipe left out."""
    targets: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed a moment ago
            targets.add(str(link.readlink()))
    return {target for target in targets if not target.startswith("pipe:")}


def script_of(run: RunDir) -> Path:
    return Path(run.spec()["command"][1])


def nasty_pids(run: RunDir) -> list[int]:
    path = Path(f"{script_of(run)}.pids")
    wait_for(path.exists)
    return json.loads(path.read_text())


def stop_twice(run: RunDir) -> list[str]:
    """The states that two callers get who stop the run at the same moment."""
    states: list[str] = []
    threads = [threading.Thread(target=lambda: states.append(launch.stop(run, "both").state)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return states


# A foreign process with the title of one of Ray's workers, its child, and a neighbour of another session.
RAY_LIKE = """
import ctypes, os, time
ctypes.CDLL(None).prctl(15, b"ray::Sampler", 0, 0, 0)
if os.fork() == 0:
    os.setsid()
    ctypes.CDLL(None).prctl(15, b"raylet", 0, 0, 0)
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)
time.sleep(600)
"""


def start_decoys() -> list[subprocess.Popen[bytes]]:
    """Foreign processes that look like those of a run, and must live on when one is stopped."""
    commands = [
        [sys.executable, "-c", SLEEP, "-m", "oxrl_core.driver", "--run-dir", "/tmp/a-run"],
        ["sleep", "600"],
        [sys.executable, "-c", RAY_LIKE],
        ["bash", "-c", "exec -a VLLM::EngineCore sleep 600"],
    ]
    return [subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) for command in commands]


def with_arguments(run: RunDir, *words: str) -> RunDir:
    """The run, with words added to the command that it starts."""
    spec = run.spec()
    write_json(run.path / "spec.json", {**spec, "command": [*spec["command"], str(run.path), *words]})
    return run
