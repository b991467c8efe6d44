"""Tripwires and records of true runs: faults that are really there, healthy runs that say nothing, and what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.rollout.recorder import read_rollouts
from oxrl_core.runs.rundir import RunDir

HERE = Path(__file__).parent
SMALL = ["train.prompts_per_step=4", "rollout.group_size=4"]
JOBS: dict[str, dict[str, Any]] = {
    "sgrpo": {"recipe": "sgrpo", "overrides": [*SMALL, "train.steps=12"], "stops": [6]},
    "dpo": {"recipe": "dpo", "overrides": ["train.steps=12"]},
    "sft": {"recipe": "sft", "overrides": ["train.steps=12"]},
    "tiny_lr": {"recipe": "sft", "overrides": ["train.steps=3", "train.lr=1e-13"]},
    "still_adapters": {
        "recipe": "sft",
        "overrides": ["train.steps=2", "train.lr=1e-60", "model.lora.enabled=true", "tripwires.stop_on=[lora_unbound]"],
    },
    "gap": {"recipe": "sgrpo", "overrides": [*SMALL, "train.steps=3", "rollout.logprob_gap_limit=1e-12"]},
    "cut_off": {
        "recipe": "sgrpo",
        "overrides": [*SMALL, "train.steps=11", "rollout.stop_at_eos=true", "rollout.max_completion_tokens=1"],
    },
    "same_rewards": {
        "recipe": "sgrpo",
        "overrides": [*SMALL, "train.steps=11", "reward.name=exact", "algorithm.entropy_coef=0"],
    },
    "off": {"recipe": "sft", "overrides": ["train.steps=2", "tripwires.enabled=false"]},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunDir, dict[str, Any]]]:
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, str(HERE / "in_process.py"), str(home)],
        input=json.dumps(list(JOBS.values())),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    # One process made them all, one after the other: in the order of their birth they are in the order of the jobs.
    folders = sorted(
        (home / "runs").iterdir(), key=lambda path: json.loads((path / "spec.json").read_text())["created_at"]
    )
    return dict(zip(JOBS, zip(map(RunDir, folders), answers, strict=True), strict=True))


def alerts(run: RunDir) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["level"] in ("warning", "error")]


@pytest.mark.parametrize("name", ["sgrpo", "dpo", "sft"])
def test_a_healthy_run_says_nothing(runs, name):
    run, answer = runs[name]
    assert "error" not in answer
    assert alerts(run) == []
    assert len([row for row in run.metrics() if row.get("update/lost") == 0.0]) >= 3
    assert {row["gradient/dead"] for row in run.metrics() if "gradient/dead" in row} == {0.0}


def test_the_log_probs_agree_before_anything_is_learned(runs):
    first = runs["sgrpo"][0].metrics()[0]
    assert first["step"] == 0 and 0 <= first["gap/self_test"] < 1e-4


def test_coverage_is_the_share_of_tokens_behind_the_first(runs):
    # reverse3: a prompt of four tokens, a completion of four (three digits and EOS): 4 of the 7 behind the first.
    row = next(row for row in runs["sft"][0].metrics() if "mask/coverage" in row)
    assert row["mask/coverage"] == pytest.approx(4 / 7)


def test_a_rate_too_small_for_float32_is_said_as_lost_updates(runs):
    run, _ = runs["tiny_lr"]
    (event,) = alerts(run)
    assert (event["code"], event["step"], event["level"]) == ("lost_updates", 1, "error")
    assert event["value"] > 0.95


def test_adapters_that_do_not_move_end_the_run_where_that_is_asked_for(runs):
    run, answer = runs["still_adapters"]
    assert "TripwireError" in answer["error"] and "lora_unbound" in answer["error"]
    assert "lora_unbound" in [event["code"] for event in alerts(run)]


def test_a_gap_ends_the_run_before_its_first_update_and_names_a_sample_that_is_recorded(runs):
    run, answer = runs["gap"]
    assert "LogprobGapError" in answer["error"]
    (event,) = alerts(run)
    assert (event["code"], event["level"]) == ("logprob_gap", "error")
    step, *prompt, index = event["samples"][0].split("/")
    assert step == "0"  # the test before the first step
    recorded = read_rollouts(run.rollouts / "step-00000000.parquet")
    assert ("/".join(prompt), int(index)) in {(row["prompt_id"], row["sample_index"]) for row in recorded}


def test_completions_that_cannot_end_are_said(runs):
    assert {"no_eos", "truncation"} & {event["code"] for event in alerts(runs["cut_off"][0])}


def test_rewards_that_are_all_the_same_are_said(runs):
    codes = [event["code"] for event in alerts(runs["same_rewards"][0])]
    assert "zero_variance" in codes


def test_every_step_is_recorded_through_a_stop_and_a_resume(runs):
    run, _ = runs["sgrpo"]
    files = sorted(run.rollouts.glob("step-*.parquet"))
    assert [int(path.stem[5:]) for path in files] == list(range(1, 13))
    for path in files:
        rows = read_rollouts(path)
        assert len(rows) == 16 and all(row["learned"] for row in rows)
        mean = sum(row["score"] for row in rows) / 16
        metric = next(row["reward/mean"] for row in run.metrics() if row["step"] == rows[0]["step"])
        assert mean == pytest.approx(metric)
        assert sum(row["shaped_reward"] for row in rows) / 16 == pytest.approx(mean)


def test_a_supervised_step_names_its_rows(runs):
    rows = read_rollouts(runs["dpo"][0].rollouts / "step-00000003.parquet")
    assert len(rows) == 32 and rows[0]["row_id"].startswith("reverse3-pairs/train/")


def test_without_tripwires_nothing_is_watched(runs):
    run, _ = runs["off"]
    assert not any("gradient/dead" in row or "gap/self_test" in row for row in run.metrics())
