"""From scores to advantages and step statistics, by hand."""

from __future__ import annotations

import pytest

from oxrl_core.errors import RewardError
from oxrl_core.rewards.base import Reward
from oxrl_core.train.draw import Drawn
from oxrl_core.train.learner import balance
from oxrl_core.train.learner_worker import average
from oxrl_core.train.verdicts import describe, groups_of, judge
from oxrl_core.types import Prompt, Rollout, Score


def rollout(score: float, status: str = "ok", length: int = 3, finish_reason: str = "stop") -> Rollout:
    prompt = Prompt(id="p", token_ids=[1], text="?", answer="")
    return Rollout(prompt, 0, [2] * length, [0.0] * length, finish_reason, 0, 0, score=Score(score, status))


def test_a_failed_verdict_is_no_zero_it_is_left_out_of_its_group():
    (group,) = groups_of([rollout(1.0), rollout(0.0), rollout(float("nan"), "error"), rollout(0.5)], group_size=4)
    assert [one.score.value for one in group] == [1.0, 0.0, 0.5]


def test_a_group_with_one_verdict_has_nothing_to_compare():
    failed = rollout(float("nan"), "timeout")
    drawn = [rollout(1.0), failed, rollout(1.0), rollout(0.0)]
    assert groups_of(drawn, group_size=2) == [[rollout(1.0), rollout(0.0)]]
    # A critic compares with itself: one verdict is enough.
    assert groups_of(drawn, group_size=2, compares=False) == [[rollout(1.0)], [rollout(1.0), rollout(0.0)]]
    assert groups_of([failed], group_size=1, compares=False) == []


def test_groups_are_cut_by_position_so_a_repeated_prompt_makes_two():
    assert [len(group) for group in groups_of([rollout(0.1 * i) for i in range(6)], group_size=3)] == [3, 3]


def test_step_statistics_by_hand():
    drawn = [
        rollout(1.0, length=2),
        rollout(1.0, length=4),
        rollout(0.0, "no_answer", 6, "length"),
        rollout(0.0, "error"),
    ]
    metrics = describe(Drawn(drawn, groups_of(drawn, 2), num_draws=1), Reward("unused", always_raises))
    assert metrics["reward/mean"] == pytest.approx(2 / 3)
    assert metrics["reward/std"] == pytest.approx((2 / 9) ** 0.5)
    assert metrics["reward/errors"] == 0.25
    assert metrics["completion/length"] == pytest.approx((2 + 4 + 6 + 3) / 4)
    assert metrics["completion/truncated"] == 0.25
    assert metrics["groups/zero_variance"] == 1.0  # the one whole group has equal rewards


def always_raises(_: Rollout) -> float:
    raise KeyError("answer")


def test_a_reward_that_judges_nothing_ends_the_run_with_its_reason():
    with pytest.raises(RewardError, match="judged none of 2 completions: KeyError"):
        judge(Reward("broken", always_raises), [rollout(0.0)] * 2, timeout_seconds=60.0)


def test_ranks_get_equal_loads_and_every_row_once():
    parts = balance([9, 1, 1, 1, 5, 4, 3], 2)
    assert sorted(index for part in parts for index in part) == list(range(7))
    lengths = [9, 1, 1, 1, 5, 4, 3]
    assert [sum(lengths[i] for i in part) for part in parts] == [12, 12]
    assert balance([5], 3) == [[0], [], []]


def test_metrics_of_several_updates_are_averaged_tokens_added_and_the_worst_gap_kept():
    merged = average(
        [{"loss": 1.0, "num_tokens": 10, "gap/max": 0.1}, {"loss": 3.0, "num_tokens": 20, "gap/max": 0.05}]
    )
    assert merged == {"loss": 2.0, "num_tokens": 30.0, "gap/max": 0.1}
