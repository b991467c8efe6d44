"""Runs for the worlds of tasks: written by hand with known numbers, running for hours, or truly trained for seconds."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evals.task import World
from oxrl_core import api
from oxrl_core.config.load import config_to_yaml, load_config
from oxrl_core.runs import launch
from oxrl_core.runs.rundir import RunDir

DEADLINE_SECONDS = 180.0
# A true run that takes seconds: everything in one process.
QUICK = ["run.backend=local", "rollout.engine=transformers", "rollout.group_size=4", "train.prompts_per_step=4"]

# A run that goes on until it is stopped; `worst` is the value that its loss takes from step 3 on.
ENDLESS = """
import os, signal, sys, time
from pathlib import Path
from oxrl_core.runs.rundir import RunDir
run = RunDir(Path(os.environ["OXRL_HOME"]) / "runs" / os.environ["OXRL_RUN_ID"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
step = 0
while True:
    step += 1
    loss = float(sys.argv[1]) if step > 2 else 0.5
    row = {"step": step, "loss": loss, "reward/mean": 0.0 if loss != loss else 0.2 + 0.01 * min(step, 40), "lr": 1e-5}
    run.append_metrics(row)
    run.write_progress("training", step, 100000, row)
    time.sleep(0.5)
"""


def rows_of(steps: int = 30, **changed: Any) -> list[dict[str, Any]]:
    """Metrics of a healthy RL run; a keyword changes one: `reward__mean=0.0`, or a function of the step."""
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        row: dict[str, Any] = {
            "step": step,
            "loss": -0.1 + 0.01 * (step % 3),
            "grad_norm": 0.4 + 0.01 * (step % 5),
            "lr": 1e-3,
            "entropy": 2.5 - 0.02 * step,
            "reward/mean": 0.1 + 0.02 * step + 0.005 * (step % 2),
            "reward/std": 0.2,
            "reward/errors": 0.0,
            "groups/zero_variance": 0.1,
            "completion/length": 4.0,
            "completion/truncated": 0.0,
            "gap/mean": 1e-7,
            "seconds": 1.0,
        }
        for name, value in changed.items():
            row[name.replace("__", "/")] = value(step) if callable(value) else value
        rows.append(row)
    return rows


def write_run(
    world: World,
    name: str,
    overrides: Sequence[str] = (),
    rows: Sequence[dict[str, float]] = (),
    error: dict[str, str] | None = None,
    log: str = "",
) -> RunDir:
    """A run that has ended, from its numbers, its last word and its log."""
    loaded = load_config("sgrpo", [f"run.name={name}", *overrides])
    spec = {"kind": "rl", "config_hash": "0", "max_restarts": 0}
    run = RunDir.create_from_parts(world.home, name, config_to_yaml(loaded.config), spec)
    for row in rows:
        run.append_metrics(row)
    newest = rows[-1] if rows else {}
    run.write_progress("training" if error else "finished", len(rows), loaded.config.train.steps, newest)
    ended = {"state": "failed" if error else "finished", "exit_code": 1 if error else 0}
    now = time.time()
    (run.path / "status.json").write_text(json.dumps({**ended, "started_at": now - 600, "ended_at": now - 60}))
    if error:
        run.write_error(error)
    if log:
        (run.logs / "driver.log").write_text(log, encoding="utf-8")
    return run


def launch_endless(world: World, name: str, loss: float = 0.3) -> RunDir:
    """A run under a true supervisor that goes on until it is stopped; it has taken three steps."""
    program = world.folder / "endless.py"
    program.write_text(ENDLESS, encoding="utf-8")
    loaded = load_config("sgrpo", [f"run.name={name}", "run.stop_grace_seconds=2"])
    run = RunDir.create(world.home, loaded, "rl", command=[sys.executable, str(program), repr(loss)])
    launch.launch(run)
    wait_for(lambda: len(run.metrics()) >= 3, f"{name} takes three steps")
    return run


def train_and_stop(world: World, name: str, steps: int, stop_after: int) -> RunDir:
    """A true run that was stopped on the way and can go on."""
    overrides = [f"run.name={name}", f"train.steps={steps}", "train.save_every=2", *QUICK]
    launched = api.launch_run("sgrpo", overrides, home=world.home)
    run = RunDir(Path(launched.path))
    wait_for(lambda: len(run.metrics(from_step=1)) >= stop_after, f"{name} takes {stop_after} steps")
    api.stop_run(run.run_id, reason="the machine was needed", home=world.home)
    wait_for(lambda: api.get_run(run.run_id, home=world.home).state == "stopped", f"{name} is stopped")
    return run


def wait_for(holds: Callable[[], bool], what: str) -> None:
    """Returns when it holds; a world that does not come about is an error."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {DEADLINE_SECONDS:g} s still not: {what}")
        time.sleep(0.2)


def stop_everything(world: World) -> None:
    """Ends what a play has left running."""
    if (world.home / "runs").is_dir():
        for view in api.list_runs(state="active", home=world.home).runs:
            api.stop_run(view.run_id, reason="the play is over", force=True, home=world.home)


def is_close(value: object, expected: float, tolerance: float = 1e-3) -> bool:
    """Whether a number of an answer is the expected one."""
    return isinstance(value, (int, float)) and math.isclose(value, expected, abs_tol=tolerance)
