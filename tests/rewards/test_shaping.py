"""From verdicts to rewards, worked by hand."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.config.schema import RewardConfig
from oxrl_core.rewards.shaping import RunningMoments, shape
from oxrl_core.types import FinishReason, Prompt, Rollout, Score

NAN = math.nan


def drawn(value: float, length: int = 4, finish_reason: FinishReason = "stop", status: Any = "ok") -> Rollout:
    prompt = Prompt("test/train/0", [1], "?")
    score = Score(value, status)
    return Rollout(prompt, 0, [2] * length, [0.0] * length, finish_reason, 0, 0, score=score)


def shaped(
    rollouts: list[Rollout], running: RunningMoments | None = None, limit: int = 20, **reward: Any
) -> list[float]:
    return shape(rollouts, RewardConfig(**reward), limit, running or RunningMoments())


def test_without_switches_the_reward_is_the_verdict() -> None:
    assert shaped([drawn(0.25), drawn(-3.0), drawn(0.0, status="no_answer")]) == [0.25, -3.0, 0.0]


def test_the_last_tokens_cost_up_to_1_linearly() -> None:
    # L_max 20, buffer 8: free up to 12 tokens; 14 tokens cost 2/8, 16 cost 4/8, 20 and more cost 1.
    lengths = [1, 12, 13, 14, 16, 20, 23]
    rewards = shaped([drawn(1.0, length) for length in lengths], overlong_buffer=8)
    assert rewards == [1.0, 1.0, 1 - 1 / 8, 0.75, 0.5, 0.0, 0.0]


def test_a_completion_that_did_not_end_pays() -> None:
    rollouts = [drawn(1.0), drawn(1.0, finish_reason="length"), drawn(-1.0, finish_reason="length")]
    assert shaped(rollouts, missing_eos_penalty=0.5) == [1.0, 0.5, -1.5]


def test_running_normalisation_by_hand_over_two_steps() -> None:
    running = RunningMoments()
    # 1, 2, 3: mean 2, deviation 1.
    assert shaped([drawn(1.0), drawn(2.0), drawn(3.0)], running, normalize="running") == [-1.0, 0.0, 1.0]
    # 1, 2, 3, 6: mean 3, deviation sqrt((4 + 1 + 0 + 9) / 3).
    assert shaped([drawn(6.0)], running, normalize="running") == pytest.approx([3 / math.sqrt(14 / 3)])
    assert running.count == 4


def test_without_a_scale_the_rewards_are_0_and_not_infinite() -> None:
    running = RunningMoments()
    assert shaped([drawn(7.0)], running, normalize="running") == [0.0]
    assert shaped([drawn(7.0), drawn(7.0)], running, normalize="running") == [0.0, 0.0]


def test_penalties_come_last_in_the_units_of_the_scale() -> None:
    # 1, 2, 3: mean 2, deviation 1, so -1, 0, 1; clipped to 0.6; then 1 off for no end, and 1 more for the full length.
    rollouts = [drawn(1.0), drawn(2.0, 4, "length"), drawn(3.0, 20, "length")]
    running = RunningMoments()
    rewards = shaped(rollouts, running, missing_eos_penalty=1.0, overlong_buffer=4, normalize="running", clip=0.6)
    assert rewards == pytest.approx([-0.6, -1.0, 0.6 - 2.0])
    assert (running.mean, running.std) == (2.0, 1.0)  # of the verdicts: penalties would widen the scale


def test_no_verdict_stays_no_verdict_and_counts_nowhere() -> None:
    running = RunningMoments()
    rollouts = [drawn(1.0), drawn(NAN, status="error"), drawn(0.0, status="timeout"), drawn(3.0)]
    rewards = shaped(rollouts, running, missing_eos_penalty=1.0, overlong_buffer=4, normalize="running", clip=0.5)
    assert [math.isnan(reward) for reward in rewards] == [False, True, True, False]
    assert (rewards[0], rewards[3]) == (-0.5, 0.5)
    assert (running.count, running.mean) == (2, 2.0)


def test_the_verdict_itself_is_not_touched() -> None:
    rollout = drawn(1.0, 20, "length")
    shaped([rollout], missing_eos_penalty=1.0, overlong_buffer=4, normalize="running", clip=0.1)
    assert rollout.score == Score(1.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60), st.integers(0, 60))
def test_moments_are_those_of_the_whole_list_wherever_a_checkpoint_cuts_it(values: list[float], cut: int) -> None:
    whole, resumed = RunningMoments(), RunningMoments()
    for value in values:
        whole.add(value)
    for value in values[:cut]:
        resumed.add(value)
    resumed = RunningMoments.from_dict(json.loads(json.dumps(resumed.to_dict())))
    for value in values[cut:]:
        resumed.add(value)
    assert resumed == whole  # bit for bit
    assert whole.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert whole.std == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


def test_a_fresh_run_has_no_moments() -> None:
    assert RunningMoments.from_dict({}) == RunningMoments()
    assert RunningMoments().std == 0.0
