"""Losses over drawn completions against TRL and against verl's formulas: value and gradient to 1e-6."""

from __future__ import annotations

import pytest

from oxrl_core.algorithms.base import all_algorithms, get_algorithm
from scripts.parity import credit, policy_gradient
from scripts.parity.result import Parity

TOLERANCE = 1e-6  # of a value above 1 and of a gradient's largest element: relative, for float32 has 7 digits


@pytest.fixture(scope="module")
def rows() -> list[Parity]:
    return [*policy_gradient.rows(), *credit.rows()]


def test_every_row_agrees_with_its_oracle(rows: list[Parity]) -> None:
    apart = [row for row in rows if not (row.value_error <= TOLERANCE and row.gradient_error <= TOLERANCE)]
    assert apart == []


def test_every_policy_gradient_has_an_oracle_and_many_cases(rows: list[Parity]) -> None:
    losses = {algorithm.loss for algorithm in all_algorithms().values() if algorithm.signals == "Rollouts"}
    assert {get_algorithm(row.algorithm).loss for row in rows} == losses
    assert min(row.cases for row in rows) >= 24


def test_the_cases_are_short_and_long_with_holes_and_equal_rewards_on_and_off_policy() -> None:
    cases = list(policy_gradient.rollout_cases())
    assert {case.mask.shape[1] for case in cases} == {1, 9, 60, 1024}
    assert all(case.mask[-1].sum() == 1 for case in cases)
    assert any((case.mask[0].diff() & case.mask[0, 1:]).any() for case in cases)
    assert any(not case.advantages.any() for case in cases) and any(case.advantages.all() for case in cases)
    drifts = [(case.logprobs - case.old_logprobs)[case.mask].abs().max() for case in cases]
    assert min(drifts) == 0 and max(drifts) > 2


def test_the_comparison_sees_a_loss_that_is_wrong() -> None:
    wrong = policy_gradient.Twin("sgrpo", "dapo", {"clip_low": 0.2, "clip_high": 0.2, "ratio_cap": 1.25})
    row = policy_gradient.compare("sgrpo", "TRL without delta", policy_gradient.twin_cases(wrong))
    assert row.value_error > 1e-3 and row.gradient_error > 1e-3
