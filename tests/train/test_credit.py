"""What each token was worth, by hand."""

from __future__ import annotations

import math

import pytest

from oxrl_core.config.schema import AlgorithmConfig
from oxrl_core.train.credit import give_credit
from oxrl_core.types import Measurement, Prompt, Rollout


def rollout(length: int, finish_reason: str = "stop") -> Rollout:
    return Rollout(Prompt("p", [1], "?"), 0, [2] * length, [0.0] * length, finish_reason, 0, 0)


def test_a_group_advantage_stands_on_every_token_of_its_completion():
    groups = [[rollout(1), rollout(3)]]
    credits = give_credit(groups, [1.0, 0.0], None, AlgorithmConfig(advantage="group_centered", advantage_scale=4.0))
    assert [credit.advantages for credit in credits] == [[2.0], [-2.0, -2.0, -2.0]]
    assert credits[0].measurement is None


def test_kl_in_the_reward_is_summed_over_the_completion_before_the_group_is_compared():
    measured = [Measurement([-1.0, -1.0], [-1.5, -2.0]), Measurement([-1.0], [-1.0])]  # sum of k1: 1.5 and 0
    algorithm = AlgorithmConfig(advantage="leave_one_out", kl_coef=0.2, kl_place="reward", kl_estimator="k1")
    credits = give_credit([[rollout(2), rollout(1)]], [1.0, 1.0], measured, algorithm)
    assert credits[0].advantages == pytest.approx([-0.3, -0.3])  # (1 - 0.3) - 1
    assert credits[1].advantages == pytest.approx([0.3])


def test_generalised_advantages_bootstrap_a_truncated_completion_and_not_a_finished_one():
    measured = [Measurement([0.0, 0.0], [], values=[0.5, 0.25], last_value=8.0)] * 2
    algorithm = AlgorithmConfig(name="ppo", advantage="gae", discount=0.5, gae_lambda=0.5)
    finished, cut = give_credit([[rollout(2)], [rollout(2, "length")]], [1.0, 1.0], measured, algorithm)
    # finished: delta_1 = 1 - 0.25 = 0.75; delta_0 = 0.5 x 0.25 - 0.5 = -0.375; A_0 = -0.375 + 0.25 x 0.75
    assert finished.advantages == pytest.approx([-0.1875, 0.75])
    assert finished.returns == pytest.approx([0.3125, 1.0])
    # cut off: delta_1 = 1 + 0.5 x 8 - 0.25 = 4.75; A_0 = -0.375 + 0.25 x 4.75
    assert cut.advantages == pytest.approx([0.8125, 4.75])
    assert cut.returns == pytest.approx([1.3125, 5.0])


def test_returns_fall_with_the_distance_from_the_score_and_kl_is_paid_where_it_arises():
    algorithm = AlgorithmConfig(advantage="returns", discount=0.5, kl_coef=1.0, kl_place="reward", kl_estimator="k1")
    measured = [Measurement([-1.0, -1.0, -1.0], [-1.0, -1.5, -1.0])]  # k1: 0, 0.5, 0
    (credit,) = give_credit([[rollout(3)]], [2.0], measured, algorithm)
    assert credit.advantages == pytest.approx([0 + 0.5 * 0.5, -0.5 + 0.5 * 2.0, 2.0])


def test_whitening_is_over_all_tokens_of_the_step():
    groups = [[rollout(1), rollout(2)], [rollout(1), rollout(1)]]
    algorithm = AlgorithmConfig(advantage="group_centered", whiten=True)
    credits = give_credit(groups, [1.0, 0.0, 3.0, 1.0], None, algorithm)
    tokens = [value for credit in credits for value in credit.advantages]
    plain = [0.5, -0.5, -0.5, 1.0, -1.0]
    mean = sum(plain) / 5
    deviation = math.sqrt(sum((value - mean) ** 2 for value in plain) / 4)
    assert tokens == pytest.approx([(value - mean) / deviation for value in plain], rel=1e-6)


def test_a_step_without_a_rollout_gives_no_credit():
    assert give_credit([], [], None, AlgorithmConfig()) == []
