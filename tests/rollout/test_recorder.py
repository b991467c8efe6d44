from __future__ import annotations

from pathlib import Path

import pytest

from oxrl_core.rollout.recorder import Recorder, read_rollouts
from oxrl_core.types import Credit, Measurement, Prompt, Rollout, Score

MEASUREMENT = Measurement([-0.5, -0.25, -1.0, -2.5], [-1.0] * 4, [0.25] * 4, 0.5)
CREDITS = [Credit([0.5, 0.5, 0.25, 0.25], [1.0] * 4, MEASUREMENT), Credit([-0.5] * 4)]
PROMPT = Prompt(id="reverse3/train/4", token_ids=[6, 4, 2, 16], text="420>")


def rollout(index: int, score: Score | None) -> Rollout:
    return Rollout(PROMPT, index, [2, 4, 6, 1], [-0.5, -0.25, -1.0, -2.0], "stop", 11, 2**63 - 1, "024", score)


def test_what_is_written_is_read_back_whole(tmp_path: Path) -> None:
    rollouts = [rollout(0, Score(0.75, parts={"positions": 3.0})), rollout(1, None)]
    path = Recorder(tmp_path / "rollouts").write(12, rollouts, CREDITS, [[-0.5, -0.25, -1.0, -2.5], [0.0] * 4])
    assert path.name == "step-00000012.parquet"
    first, second = read_rollouts(path)
    assert first == {
        "step": 12,
        "prompt_id": "reverse3/train/4",
        "prompt_text": "420>",
        "prompt_token_ids": [6, 4, 2, 16],
        "completion_token_ids": [2, 4, 6, 1],
        "completion_text": "024",
        "rollout_logprobs": [-0.5, -0.25, -1.0, -2.0],
        "trainer_logprobs": [-0.5, -0.25, -1.0, -2.5],
        "advantages": [0.5, 0.5, 0.25, 0.25],
        "returns": [1.0] * 4,
        "values": [0.25] * 4,
        "ref_logprobs": [-1.0] * 4,
        "score": 0.75,
        "score_status": "ok",
        "score_parts": {"positions": 3.0},
        "finish_reason": "stop",
        "policy_version": 11,
        "seed": 2**63 - 1,
        "sample_index": 0,
    }
    assert (second["score"], second["score_status"], second["score_parts"]) == (None, None, {})
    assert (second["advantages"], second["returns"], second["values"]) == ([-0.5] * 4, None, None)


def test_a_folder_reads_in_the_order_of_its_steps(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for step in (10, 9, 100):
        recorder.write(step, [rollout(0, None)])
    rows = read_rollouts(tmp_path)
    assert [row["step"] for row in rows] == [9, 10, 100]
    assert (rows[0]["trainer_logprobs"], rows[0]["advantages"]) == (None, None)  # it was learned from otherwise


def test_a_write_that_fails_leaves_no_file_behind(tmp_path: Path) -> None:
    bad = rollout(0, None)
    bad.token_ids = ["not a token"]  # type: ignore[list-item]
    with pytest.raises(Exception, match=r"not a token|int"):
        Recorder(tmp_path).write(1, [bad])
    assert list(tmp_path.iterdir()) == []


def test_credits_must_match_the_rollouts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        Recorder(tmp_path).write(1, [rollout(0, None), rollout(1, None)], CREDITS[:1])
