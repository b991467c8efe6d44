"""A true run whose driver is killed: it is started again by itself, goes on, and ends at its budget of tokens."""

from __future__ import annotations

import os
import signal
import time

import pytest

from oxrl_core import api
from oxrl_core.config.load import load_config
from oxrl_core.runs import launch, process
from oxrl_core.runs.rundir import RunDir, oxrl_home

OVERRIDES = [
    "run.backend=local",
    "rollout.engine=transformers",
    "train.steps=400",
    "train.eval_rows=2",
    "train.prompts_per_step=2",
    "rollout.group_size=2",
    "train.save_every=1",
    "run.max_tokens=400",
]


@pytest.mark.engine
def test_a_killed_driver_goes_on_by_itself_to_the_end_of_its_budget() -> None:
    home = oxrl_home()
    run, _ = launch.open_run(home, load_config("demo", OVERRIDES), "rl")
    try:
        launch.launch(run)
        kill_after_a_checkpoint(run)
        deadline = time.monotonic() + 300
        while not run.status().has_ended and time.monotonic() < deadline:
            time.sleep(0.2)
        view = api.get_run(run.run_id, home=home)
        assert (view.state, view.restarts) == ("stopped", 1), run.events()[-5:]
        assert "run.max_tokens" in view.stop_reason
        codes = [event["code"] for event in run.events()]
        assert codes.index("restarting") < codes.index("resumed")
        rows = run.metrics()
        assert [row["step"] for row in rows] == list(range(view.step + 1))
        trained = [row["num_tokens"] for row in rows if "num_tokens" in row]
        assert sum(trained[:-1]) < 400 <= sum(trained)  # it ended after the step that passed the budget
        assert (run.checkpoints / f"step_{view.step:08d}").is_dir()
    finally:
        launch.stop(run, "end of the test", 0.0)


def kill_after_a_checkpoint(run: RunDir) -> None:
    """Kill the driver once it has something to go on from."""
    deadline = time.monotonic() + 300
    while not (run.checkpoints / "step_00000001").is_dir():
        assert time.monotonic() < deadline and not run.status().has_ended, run.read_logs().lines[-5:]
        time.sleep(0.02)
    driver = run.status().driver
    assert driver and process.is_alive(driver)
    os.kill(driver.pid, signal.SIGKILL)
