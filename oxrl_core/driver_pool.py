"""Many small runs from one process: `python -m oxrl_core.driver_pool [--at-once N] < RUN-DIRECTORIES`.

A driver takes ten seconds to import its libraries. This process imports them once and forks: for each run directory a
true driver in a process of its own, then another that loads the exported model back. As soon as a run has ended there
is one line of JSON about it: {"run_dir", "exit_code", "seconds", "reload"}.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from oxrl_core.engine.environment import engine_environment

LONGEST_SECONDS = 600.0  # of one run; a longer one is killed
POLL_SECONDS = 0.05
RELOAD_FILE = "reload.json"
IMPORTED = (
    "oxrl_core.build",
    "oxrl_core.driver",
    "oxrl_core.engine.policy",
    "oxrl_core.models.reload",
    "oxrl_core.rollout.hf_worker",
    "oxrl_core.train.journal",
    "oxrl_core.train.learner_worker",
    "oxrl_core.train.rl",
    "oxrl_core.train.sl",
)


@dataclass
class Child:
    """A process for a run."""

    run_dir: Path
    pid: int
    began: float
    work: str  # drive, reload
    exit_code: int = 0  # of the driver, once it has ended


def import_all() -> None:
    """Imports whatever a driver needs; it computes nothing, so that there are no threads yet that a fork would lose."""
    from oxrl_core.engine.ranks import load_deepspeed

    load_deepspeed()
    for name in IMPORTED:
        import_module(name)


def drive(run_dir: Path) -> int:
    """The exit code of a driver."""
    from oxrl_core.driver import main

    return main(["--run-dir", str(run_dir)])


def reload(run_dir: Path) -> int:
    """Writes what oxrl_core.models.reload finds out about the final model beside it."""
    from oxrl_core.models.reload import reload as compare

    began = run_dir / "model"
    found = compare(run_dir / "final", began if began.is_dir() else None)
    (run_dir / RELOAD_FILE).write_text(json.dumps(found), encoding="utf-8")
    return 0


WORK: dict[str, Callable[[Path], int]] = {"drive": drive, "reload": reload}


def start(run_dir: Path, work: str) -> Child:
    """Forks a process that does the work for a run; what it prints belongs to the run's log."""
    pid = os.fork()
    if pid:
        return Child(run_dir, pid, time.monotonic(), work)
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log = os.open(run_dir / "logs" / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = WORK[work](run_dir)
    except Exception:  # the last frame of this process: its log gets the word, its parent the code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_all(run_dirs: list[Path], at_once: int, say: Callable[[dict[str, Any]], None]) -> None:
    """Goes through all runs, so many at once."""
    waiting, alive = list(run_dirs), list[Child]()
    while waiting or alive:
        while waiting and len(alive) < at_once:
            alive.append(start(waiting.pop(0), "drive"))
        time.sleep(POLL_SECONDS)
        for child in list(alive):
            if time.monotonic() - child.began > LONGEST_SECONDS:
                os.killpg(child.pid, signal.SIGKILL)
            ended, status = os.waitpid(child.pid, os.WNOHANG)
            if not ended:
                continue
            alive.remove(child)
            code = os.waitstatus_to_exitcode(status)
            if child.work == "drive" and code == 0:
                following = start(child.run_dir, "reload")
                following.began = child.began
                alive.append(following)
                continue
            path = child.run_dir / RELOAD_FILE
            say(
                {
                    "run_dir": str(child.run_dir),
                    "exit_code": code,
                    "seconds": round(time.monotonic() - child.began, 2),
                    "reload": json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None,
                }
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m oxrl_core.driver_pool", description=__doc__)
    parser.add_argument("--at-once", type=int, default=1)
    at_once = max(1, parser.parse_args().at_once)
    os.environ.update({name: value for name, value in engine_environment().items() if name not in os.environ})
    run_dirs = [Path(line.strip()) for line in sys.stdin if line.strip()]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print belongs to the log
    import_all()
    run_all(run_dirs, at_once, lambda record: print(json.dumps(record), file=out, flush=True))


if __name__ == "__main__":
    main()
