"""True runs in which a generation, a reward or a save sleeps for ever: told soon and with the line, and then ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.config.load import load_config
from oxrl_core.engine.checkpoint import CheckpointStore
from oxrl_core.runs import launch, process
from oxrl_core.runs.rundir import RUN_FOLDER, RunDir

DRIVER = Path(__file__).with_name("hanging_driver.py")
STALL_SECONDS = 4.0  # or ten usual steps, on a machine that takes longer for one
COMMON = [
    "run.backend=local",
    "rollout.engine=transformers",
    "rollout.group_size=2",
    "train.prompts_per_step=2",
    "train.steps=5",
    "train.save_every=1",
    "train.eval_every=0",
    "train.eval_rows=2",
    "train.stop_at_reward=null",
    "report.sinks=[]",
    f"run.stall_seconds={STALL_SECONDS}",
    "run.stop_grace_seconds=2",
]
REWARD = """
import time
from pathlib import Path

def sleeps(rollout):
    calls = Path(__file__).with_suffix(".calls")
    with calls.open("a") as file:
        file.write("x")
    if calls.stat().st_size > 8:
        time.sleep(600)  # nobody comes back from here
    return 1.0
"""

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunDir]]:
    """Three runs on their way at once."""
    home = tmp_path_factory.mktemp("home")
    (home / "own.py").write_text(REWARD)

    def start(where: str, policy: str, *overrides: str) -> RunDir:
        loaded = load_config("demo", [*COMMON, f"run.on_stall={policy}", *overrides])
        command = None if where == "rewarding" else [sys.executable, str(DRIVER), RUN_FOLDER, where]
        run = RunDir.create(home, loaded, "rl", command=command, facts={"max_restarts": 2})
        launch.launch(run)
        return run

    started = {
        "generating": start("generating", "restart"),
        "saving": start("saving", "stop"),
        # Nothing is tried before the first step: the reward counts its calls.
        "rewarding": start(
            "rewarding",
            "alert",
            f"reward.name={home / 'own.py'}:sleeps",
            "reward.timeout_seconds=500",
            "reward.self_test_rows=0",
        ),
    }
    yield started
    for run in started.values():
        launch.stop(run, "end of the test", 0.0)
        assert process.members_by_run().get(run.run_id, []) == []


def wait_for(condition: Callable[[], Any], run: RunDir, seconds: float = 240.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, (run.status(), run.events()[-5:], run.read_logs(lines=20).lines)
        time.sleep(0.1)
    return value


def told(run: RunDir, phase: str, line: str) -> dict[str, Any]:
    """The stall as it was told, once the stacks beside it show the line."""
    (event,) = wait_for(lambda: [one for one in run.events(alerts_only=True) if one["code"] == "stalled"], run)
    assert event["phase"] == phase
    assert STALL_SECONDS <= event["limit"] <= event["seconds"] < event["limit"] + 30
    stacks = Path(event["stacks"])
    wait_for(lambda: line in "".join(path.read_text() for path in stacks.glob("*.txt")), run, 60)
    return event


def test_a_generation_that_hangs_is_begun_again_from_the_last_checkpoint(runs: dict[str, RunDir]) -> None:
    run = runs["generating"]
    told(run, "generating", "stand_still_here")
    wait_for(lambda: run.status().has_ended, run)
    status = run.status()
    assert (status.state, status.step, status.restarts) == ("finished", 5, 1)
    codes = [event["code"] for event in run.events()]
    assert codes.index("stalled") < codes.index("restarting") < codes.index("resumed")
    assert [row["step"] for row in run.metrics()] == list(range(6))


def test_a_save_that_hangs_stops_the_run_and_leaves_the_checkpoint_before_it(runs: dict[str, RunDir]) -> None:
    run = runs["saving"]
    told(run, "saving", "stand_still_here")
    wait_for(lambda: run.status().has_ended, run)
    status = run.status()
    assert status.state == "stopped"
    assert "run.on_stall: stop" in status.stop_reason
    newest = CheckpointStore(run.checkpoints, 2).newest()
    assert newest is not None
    assert newest[0].name == "step_00000002"


def test_a_reward_that_hangs_is_told_with_its_own_line_and_the_run_can_still_be_stopped(
    runs: dict[str, RunDir],
) -> None:
    run = runs["rewarding"]
    event = told(run, "rewarding", "sleeps (")
    assert event["policy"] == "alert"
    assert run.status().state == "stalled"
    assert launch.stop(run, "enough").state == "stopped"
    assert process.members_by_run().get(run.run_id, []) == []
