"""Steps of real runs, repeated and gone on from: the same learner, checkpoints and records as ever, in one process."""

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

RUNNER = Path(__file__).parent / "replays.py"
RL = ["train.prompts_per_step=4", "report.sinks=[]"]
SL = ["train.rows_per_step=8", "report.sinks=[]"]
PIPELINE = [*RL, "rollout.pipeline=1", "algorithm.mismatch=tis"]

JOBS: list[dict[str, Any]] = [
    # Four steps with a checkpoint after each second one, of which the last two are kept.
    {"name": "sft", "recipe": "sft", "overrides": ["train.steps=4", *SL]},
    {"name": "sft 3", "replay": "sft", "step": 3},
    {"name": "dpo", "recipe": "dpo", "overrides": ["train.steps=4", *SL, "algorithm.precompute_reference=true"]},
    {"name": "dpo 4", "replay": "dpo", "step": 4},
    {"name": "kto", "recipe": "kto", "overrides": ["train.steps=4", *SL, "algorithm.baseline=running"]},
    {"name": "kto 4", "replay": "kto", "step": 4},
    {"name": "sgrpo", "recipe": "sgrpo", "overrides": ["train.steps=5", *RL, "train.save_every=2"]},
    {"name": "sgrpo 4", "replay": "sgrpo", "step": 4},
    {"name": "sgrpo 5", "replay": "sgrpo", "step": 5, "overrides": ["train.lr=1e-6"]},
    {"name": "ppo", "recipe": "ppo", "overrides": ["train.steps=4", *RL, "train.save_every=2"]},
    {"name": "ppo 2", "replay": "ppo", "step": 2},
    {"name": "ppo 3", "replay": "ppo", "step": 3},
    {"name": "dapo", "recipe": "dapo", "overrides": ["train.steps=2", *RL]},
    {"name": "dapo 2", "replay": "dapo", "step": 2},
    {
        "name": "spin",
        "recipe": "spin",
        "overrides": ["train.steps=5", *RL, "rollout.sync_every=3", "train.save_every=4"],
    },
    {"name": "spin 5", "replay": "spin", "step": 5},
    {"name": "lora", "recipe": "sgrpo", "overrides": ["train.steps=3", *RL, "model.lora.enabled=true"]},
    {"name": "lora 3", "replay": "lora", "step": 3},
    # A number that is not what it was.
    {
        "name": "token",
        "copy": "sgrpo",
        "step": 3,
        "change": {"column": "completion_token_ids", "sample": 5, "token": 1},
    },
    {"name": "token 3", "replay": "token", "step": 3},
    {"name": "metric", "copy": "sgrpo", "step": 3, "change": {"metric": "loss"}},
    {"name": "metric 4", "replay": "metric", "step": 4},
    {"name": "lost", "copy": "ppo", "remove": ["rollouts/step-00000003.parquet"]},
    {"name": "lost 4", "replay": "lost", "step": 4},
    {"name": "lost 2", "replay": "lost", "step": 2},
    # Forks: without a checkpoint of the step, with one, with other values.
    {"name": "fork 3", "fork": "sgrpo", "step": 3, "stops": [1]},
    {"name": "fork 4", "fork": "sgrpo", "step": 4},
    {"name": "fork lr", "fork": "sgrpo", "step": 4, "overrides": ["train.lr=1e-6"]},
    {"name": "fork dpo", "fork": "dpo", "step": 2},
    # Drawn one step ahead.
    {"name": "ahead", "recipe": "sgrpo", "overrides": ["train.steps=5", *PIPELINE]},
    {"name": "ahead stopped", "recipe": "sgrpo", "overrides": ["train.steps=5", *PIPELINE], "stops": [2, 1]},
    {"name": "ahead 4", "replay": "ahead stopped", "step": 4},
    {"name": "ahead fork", "fork": "ahead", "step": 3},
    {"name": "in turn", "recipe": "sgrpo", "overrides": ["train.steps=5", *RL, "algorithm.mismatch=tis"]},
]

# The fixture goes through all jobs.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of each job."""
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(tmp_path_factory.mktemp("home"))],
        input=json.dumps(JOBS),
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(JOBS), f"the runner ended with {done.returncode}:\n{done.stderr[-4000:]}"
    return {job["name"]: line for job, line in zip(JOBS, lines, strict=True)}


def result_of(answer: dict[str, Any]) -> dict[str, Any]:
    assert "result" in answer, answer
    return answer["result"]


def run_of(answer: dict[str, Any]) -> RunDir:
    assert "path" in answer, answer
    return RunDir(answer["path"])


def final_weights(answer: dict[str, Any]) -> bytes:
    return (run_of(answer).path / "final" / "model.safetensors").read_bytes()


def numbers(run: RunDir, step: int) -> dict[str, float]:
    """The metrics of a step that do not tell the time."""
    (row,) = [row for row in run.metrics() if row["step"] == step]
    times = ("time", "seconds", "tokens_per_second")
    return {
        name: value for name, value in row.items() if name not in times and not name.startswith(("time/", "memory/"))
    }


REPEATED = ["sft 3", "dpo 4", "kto 4", "sgrpo 4", "sgrpo 5", "ppo 2", "ppo 3", "dapo 2", "spin 5", "lora 3", "ahead 4"]


@pytest.mark.parametrize("name", REPEATED)
def test_a_repeated_step_is_the_same_bit_for_bit(name: str, answers: dict[str, dict[str, Any]]) -> None:
    result = result_of(answers[name])
    assert result["equal"] is True, result["differences"]
    assert result["compared"]["metrics"] >= 5 * result["repeated_steps"]
    if not name.startswith(("sft", "dpo", "kto")):
        assert result["compared"]["values of rollouts"] > 100


def test_it_starts_at_the_newest_checkpoint_that_is_left_else_at_the_initial_model(
    answers: dict[str, dict[str, Any]],
) -> None:
    from_initial, from_checkpoint = result_of(answers["ppo 2"]), result_of(answers["ppo 3"])
    assert (from_initial["started_from"], from_initial["repeated_steps"]) == ("the initial model", 2)
    assert (from_checkpoint["started_from"], from_checkpoint["repeated_steps"]) == ("step_00000002", 1)


def test_where_a_checkpoint_of_the_step_is_left_the_state_is_compared_tensor_by_tensor(
    answers: dict[str, dict[str, Any]],
) -> None:
    assert result_of(answers["ppo 2"])["compared"]["tensors"] == 16  # policy and critic, on one rank each
    assert any("no checkpoint" in left_out for left_out in result_of(answers["ppo 3"])["not_compared"])


def test_what_if_shows_the_step_side_by_side(answers: dict[str, dict[str, Any]]) -> None:
    what_if = result_of(answers["sgrpo 5"])["what_if"]
    assert what_if["overrides"] == ["train.lr=1e-6"]
    # A smaller learning rate changes the update, not what it was made of.
    assert what_if["metrics"] == [{"name": "lr", "was": 0.001, "would_be": 1e-6}]
    assert 0.0005 < what_if["largest_weight_change"] < 0.002  # AdamW moves a weight by about the learning rate


def test_a_changed_token_is_named_with_its_step_and_sample(answers: dict[str, dict[str, Any]]) -> None:
    result = result_of(answers["token 3"])
    assert result["equal"] is False
    row = read_rollouts(run_of(answers["token"]).rollouts / "step-00000003.parquet")[5]
    where = f"{row['prompt_id']}, sample {row['sample_index']}, token 1"
    found = [one for one in result["differences"] if one["name"] == "trainer_logprobs"]
    assert [(one["step"], one["where"]) for one in found] == [(3, where)]
    assert {one["step"] for one in result["differences"]} == {3}


def test_a_changed_metric_is_named_and_nothing_else(answers: dict[str, dict[str, Any]]) -> None:
    (only,) = result_of(answers["metric 4"])["differences"]
    assert (only["kind"], only["step"], only["name"], only["count"]) == ("metric", 3, "loss", 1)
    assert only["recorded"] == numbers(run_of(answers["metric"]), 3)["loss"]
    assert only["replayed"] == numbers(run_of(answers["sgrpo"]), 3)["loss"]


def test_a_lost_record_is_said_before_anything_is_loaded_and_other_steps_still_go(
    answers: dict[str, dict[str, Any]],
) -> None:
    assert "of step 3" in answers["lost 4"]["error"]
    assert "rollout.record=true" in answers["lost 4"]["next"]
    assert result_of(answers["lost 2"])["equal"] is True


@pytest.mark.parametrize(
    ("fork", "parent"), [("fork 3", "sgrpo"), ("fork 4", "sgrpo"), ("fork dpo", "dpo"), ("ahead fork", "ahead")]
)
def test_a_fork_without_overrides_is_the_parent_itself(
    fork: str, parent: str, answers: dict[str, dict[str, Any]]
) -> None:
    run, original = run_of(answers[fork]), run_of(answers[parent])
    assert final_weights(answers[fork]) == final_weights(answers[parent])
    assert [row["step"] for row in run.metrics()] == [row["step"] for row in original.metrics()]
    for row in original.metrics():
        assert numbers(run, row["step"]) == numbers(original, row["step"])
    assert run.spec()["parent"]["run_id"] == original.run_id


def test_a_fork_goes_its_own_way_from_the_step_on(answers: dict[str, dict[str, Any]]) -> None:
    run, original = run_of(answers["fork lr"]), run_of(answers["sgrpo"])
    assert numbers(run, 4) == numbers(original, 4)
    assert (numbers(run, 5)["lr"], numbers(original, 5)["lr"]) == (1e-6, 1e-3)
    assert final_weights(answers["fork lr"]) != final_weights(answers["sgrpo"])
    assert not (run.rollouts / "step-00000004.parquet").exists()
    assert (run.rollouts / "step-00000005.parquet").exists()


def test_drawn_ahead_rollouts_are_one_step_old_from_the_second_step_on(answers: dict[str, dict[str, Any]]) -> None:
    run = run_of(answers["ahead"])
    assert [row["staleness"] for row in run.metrics()[1:]] == [0, 1, 1, 1, 1]
    for step in range(1, 6):
        versions = {row["policy_version"] for row in read_rollouts(run.rollouts / f"step-{step:08d}.parquet")}
        assert versions == {max(step - 2, 0)}
    assert [row["staleness"] for row in run_of(answers["in turn"]).metrics()[1:]] == [0] * 5
    # The first step is the same either way; the second learns from what the policy of step 0 drew, or of step 1.
    assert numbers(run, 1)["loss"] == numbers(run_of(answers["in turn"]), 1)["loss"]
    assert numbers(run, 2)["loss"] != numbers(run_of(answers["in turn"]), 2)["loss"]


def test_a_stopped_pipeline_goes_on_with_what_was_drawn_already(answers: dict[str, dict[str, Any]]) -> None:
    whole, stopped = run_of(answers["ahead"]), run_of(answers["ahead stopped"])
    assert final_weights(answers["ahead"]) == final_weights(answers["ahead stopped"])
    for step in range(6):
        assert numbers(whole, step) == numbers(stopped, step)
    for step in range(1, 6):
        name = f"step-{step:08d}.parquet"
        assert read_rollouts(whole.rollouts / name) == read_rollouts(stopped.rollouts / name)
