"""A miniature that sees learns actions from demonstrations, then from what they do on the simulated table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.models.actions import read_code
from oxrl_core.rollout.recorder import read_rollouts
from oxrl_core.runs.rundir import RunDir

REPOSITORY = Path(__file__).parents[2]
DATA = ["data.train={name: reaching, bins: 8}", "data.eval=[]"]


def play(home: Path, *jobs: dict[str, Any]) -> list[RunDir]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("in_process.py")), str(home)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [answer["error"] for answer in answers if "error" in answer]
    return [RunDir(Path(answer["path"])) for answer in answers]


@pytest.mark.engine
def test_demonstrations_are_learned_and_then_what_the_actions_do(tmp_path: Path) -> None:
    shorter = ["train.steps=25", "train.rows_per_step=12"]
    fast = ["data.train={name: reaching, scheme: fast, scale: 4, merges: 8}", "train.steps=2", "data.eval=[]"]
    learned, with_fast = play(
        tmp_path,
        {"recipe": "vla", "overrides": [*DATA, *shorter]},
        {"recipe": "vla", "overrides": [*fast, "train.rows_per_step=4", "model.path=miniature:qwen2-vl-2b-instruct"]},
    )
    losses = [row["loss"] for row in learned.metrics() if "loss" in row]
    assert losses[-1] < losses[0] / 2
    code = read_code(learned.path / "final")
    assert (code.scheme, code.bins, code.num_tokens) == ("uniform", 8, 8)
    assert read_code(with_fast.path / "final").scheme == "fast"
    steps = ["train.steps=3", "train.prompts_per_step=6", f"model.path={learned.path / 'final'}"]
    (acted,) = play(tmp_path, {"recipe": "vla-rl", "overrides": [*DATA, *steps]})
    rows = acted.metrics()[1:]
    assert all(row["reward/std"] > 0 and row["grad_norm"] > 0 for row in rows)
    assert max(row["gap/max"] for row in rows) < 1e-4
    drawn = list(read_rollouts(acted.path / "rollouts"))
    is_action = [row["score_status"] == "ok" for row in drawn]
    assert sum(is_action) > len(drawn) / 4  # the demonstrations have taught what an action looks like
    assert all(row["score"] == 0 for row, known in zip(drawn, is_action, strict=True) if not known)
