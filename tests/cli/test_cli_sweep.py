"""Sweeps: planned before anything is launched, stopped cleanly, gone on with, never launched twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oxrl_core import api
from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.runs import process
from oxrl_core.runs.rundir import RunDir

Call = Callable[..., tuple[int, str, str]]
TINY: dict[str, Any] = {
    "run": {"name": "tiny", "backend": "local"},
    "model": {"path": "miniature:chars"},
    "data": {"train": "copy3"},
    "algorithm": {"name": "sft"},
    "train": {"rows_per_step": 4, "steps": 2},
}


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


def test_a_plan_names_every_trial_and_launches_nothing(oxrl: Call, tiny: str, home: Path) -> None:
    code, out, _ = oxrl("sweep", tiny, "train.lr=[1e-3,1e-4]", "run.seed=[0,1]", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["state"] == "planned" and not (home / "runs").exists() and not (home / "sweeps").exists()
    assert [trial["point"] for trial in plan["trials"]] == [
        {"train.lr": lr, "run.seed": seed} for lr in (1e-3, 1e-4) for seed in (0, 1)
    ]
    assert plan["trials"][3]["overrides"] == ["train.lr=0.0001", "run.seed=1", 'run.name="tiny-03"']
    again = json.loads(oxrl("sweep", tiny, "train.lr=[1e-3,1e-4]", "run.seed=[0,1]", "--dry-run", "--json")[1])
    other = json.loads(oxrl("sweep", tiny, "train.lr=[1e-3,1e-5]", "run.seed=[0,1]", "--dry-run", "--json")[1])
    assert plan["sweep_id"] == again["sweep_id"] != other["sweep_id"]


def test_a_combination_that_cannot_be_meant_is_shown_and_a_wrong_key_ends_the_plan(home: Path, tiny: str) -> None:
    plan = api.plan_sweep(tiny, ["train.lr_schedule=[constant,cosine]", "train.lr_floor=[0.1]"])
    assert [trial.state for trial in plan.trials] == ["refused", "waiting"]
    assert "a constant schedule never falls" in plan.trials[0].error
    with pytest.raises(ConfigError, match=r"train\.lrr"):
        api.plan_sweep(tiny, ["train.lrr=[1,2]"])
    with pytest.raises(ConfigError, match=r"run\.name is the sweep's"):
        api.plan_sweep(tiny, ["run.name=[a,b]"])


def test_a_sweep_that_is_not_there_is_missed_with_a_next_step(oxrl: Call, home: Path) -> None:
    with pytest.raises(NotFoundError):
        api.show_sweep("../../etc")
    code, _, said = oxrl("sweep", "show", "nowhere")
    assert code == 2 and "next: oxrl sweep list" in said
    assert oxrl("sweep", "list")[0] == 0
    assert oxrl("sweep", "demo", "train.lr=[1]", "--goal", "best")[0] == 2


def start(config: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "oxrl", "sweep", config, "train.lr=[1e-3,1e-4]", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_step(driver: subprocess.Popen[str], home: Path, index: int, step: int) -> RunDir:
    """The run of a trial, once it has gone so far."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and driver.poll() is None:
        records = [json.loads(path.read_text()) for path in home.glob("sweeps/*/sweep.json")]
        run_id = records[0]["trials"][index]["run_id"] if records else ""
        if run_id and RunDir(home / "runs" / run_id).status().step >= step:
            return RunDir(home / "runs" / run_id)
        time.sleep(0.05)
    raise AssertionError(f"trial {index} did not come to step {step}: {driver.communicate(timeout=60)}")


def test_a_sweep_that_is_killed_or_interrupted_goes_on_from_its_checkpoints_and_runs_nothing_twice(
    home: Path, tmp_path: Path, oxrl: Call
) -> None:
    (home / "sweeps").mkdir(parents=True)
    tiny = str(tmp_path / "longer.yaml")
    steps = 600  # long enough to be met in the middle, on a quick machine too
    Path(tiny).write_text(yaml.safe_dump(TINY | {"train": {"rows_per_step": 4, "steps": steps, "save_every": 200}}))
    killed = start(tiny)
    first = wait_for_step(killed, home, 0, 1)
    second = start(tiny)  # a second driver at the same time
    _, refused = second.communicate(timeout=60)
    assert second.returncode == 2 and "another process drives this sweep" in refused
    killed.kill()  # its run goes on
    killed.communicate(timeout=60)

    again = start(tiny)
    other = wait_for_step(again, home, 1, 3)
    record = (first.path / "status.json").read_bytes()
    assert first.status().state == "finished" and first.status().restarts == 0
    again.send_signal(signal.SIGINT)
    out, _ = again.communicate(timeout=120)
    interrupted = json.loads(out)
    assert again.returncode == 130 and interrupted["state"] == "interrupted"
    assert [trial["state"] for trial in interrupted["trials"]] == ["finished", "stopped"]
    assert not process.members_by_run().get(other.run_id)
    reached = other.status().step
    assert 3 <= reached < steps

    third = start(tiny)
    out, said = third.communicate(timeout=400)
    done = json.loads(out)
    assert third.returncode == 0, said
    assert [trial["state"] for trial in done["trials"]] == ["finished", "finished"]
    assert [trial["attempt"] for trial in done["trials"]] == [0, 0]
    assert done["metric"] == "loss" and done["goal"] == "min" and done["num_finished"] == 2
    values = {trial["index"]: trial["value"] for trial in done["trials"]}
    assert done["ranking"] == sorted(values, key=lambda index: values[index])
    assert (first.path / "status.json").read_bytes() == record
    (resumed,) = [event for event in other.events() if event["code"] == "resumed"]
    assert resumed["checkpoint"] == f"step_{reached:08d}"
    assert [row["step"] for row in other.metrics()] == list(range(steps + 1))
    runs = sorted(path.name for path in (home / "runs").glob("tiny-*"))
    assert len(runs) == 2

    code, out, _ = oxrl("sweep", tiny, "train.lr=[1e-3,1e-4]", "--json")
    assert code == 0 and json.loads(out)["trials"] == done["trials"]
    assert sorted(path.name for path in (home / "runs").glob("tiny-*")) == runs
    for rendering in ("human", "agent", "quiet"):
        code, out, _ = oxrl("sweep", "show", "latest", "--format", rendering)
        assert code == 0 and done["sweep_id"] in out
        if rendering == "human":
            assert max(map(len, out.splitlines())) <= 80
    # A trial whose run is gone is said, not hidden.
    shutil.rmtree(other.path)
    shown = json.loads(oxrl("sweep", "show", "--json")[1])
    assert shown["trials"][1]["state"] == "lost" and shown["num_failed"] == 1
