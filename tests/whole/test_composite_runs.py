"""A run whose reward is a judge, a reward model and a function together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from oxrl_core.bench.judge_server import judge_server
from oxrl_core.models.miniature import make_miniature

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.engine
def test_a_judge_and_a_reward_model_are_parts_of_a_runs_reward(tmp_path: Path) -> None:
    folder = tmp_path / "rm"
    make_miniature("chars", folder, seed=1)
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    model.save_pretrained(folder)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}20>", "answer": f"02{n}"}) + "\n" for n in range(8)))
    with judge_server() as url:
        parts = [
            {"name": "judge", "weight": 2.0, "params": {"url": url, "model": "tiny", "cache": "off"}},
            {"name": "reward_model", "weight": 0.5, "params": {"path": str(folder)}},
            {"name": "stopped"},
        ]
        overrides = [f"data.train={path}", "data.eval=[]", "train.steps=2", "reward.name=composite"]
        overrides += [f"reward.parts={json.dumps(parts)}", "train.prompts_per_step=2", "rollout.group_size=2"]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("in_process.py")), str(tmp_path / "home")],
            input=json.dumps([{"recipe": "sgrpo", "overrides": overrides}]),
            capture_output=True, text=True, timeout=300, check=True, cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert "path" in outcome, outcome
    run = Path(outcome["path"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["reward_model/scored"] == 8.0 and rows[-1]["judge/calls"] > 0
    assert (run / "judge_calls").stat().st_size == rows[-1]["judge/calls"]
    drawn = parquet.read_table(run / "rollouts" / "step-00000001.parquet").to_pylist()
    for one in drawn:
        parts_said = json.loads(one["score_parts"])
        by_hand = 2.0 * parts_said["judge"] + 0.5 * parts_said["reward_model"] + parts_said["stopped"]
        assert one["score"] == pytest.approx(by_hand, rel=1e-6)
