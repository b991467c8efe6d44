"""The reward model's loss against arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oxrl_core.algorithms.reward_model import rm
from oxrl_core.types import ScoredPairs

scores = st.floats(-1000, 1000)


def scored(chosen: float, rejected: float, margin: float = 0.0) -> ScoredPairs:
    return ScoredPairs(
        chosen_score=torch.tensor([chosen], dtype=torch.float64, requires_grad=True),
        rejected_score=torch.tensor([rejected], dtype=torch.float64, requires_grad=True),
        margins=torch.tensor([margin], dtype=torch.float64),
    )


def slopes(pairs: ScoredPairs, **params: float) -> list[float]:
    found = torch.autograd.grad(rm(pairs, **params).sum(), (pairs.chosen_score, pairs.rejected_score))
    return [slope.item() for slope in found]


def test_rm_worked_by_hand() -> None:
    # Scores log 3 apart: the chosen one wins with probability 3/4.
    assert rm(scored(math.log(3), 0.0)).item() == pytest.approx(math.log(4 / 3))
    assert slopes(scored(math.log(3), 0.0)) == pytest.approx([-1 / 4, 1 / 4])
    # A margin of log 3 takes all of that away, and half the pull is back.
    assert rm(scored(math.log(3), 0.0, math.log(3))).item() == pytest.approx(math.log(2))
    assert slopes(scored(math.log(3), 0.0, math.log(3))) == pytest.approx([-1 / 2, 1 / 2])
    assert rm(scored(math.log(3), 0.0, math.log(3)), use_margin=False).item() == pytest.approx(math.log(4 / 3))
    # Centering: 0.01 (5 + 5)^2 on top, with slope 0.02 x 10 on either score.
    assert rm(scored(5.0, 5.0), centering=0.01).item() == pytest.approx(math.log(2) + 1.0)
    assert slopes(scored(5.0, 5.0), centering=0.01) == pytest.approx([-0.5 + 0.2, 0.5 + 0.2])


@settings(max_examples=60, deadline=None)
@given(scores, scores, st.floats(-100, 100))
def test_a_constant_on_both_scores_changes_nothing_unless_they_are_centered(chosen, rejected, shift) -> None:
    plain, shifted = scored(chosen, rejected), scored(chosen + shift, rejected + shift)
    assert rm(shifted).item() == pytest.approx(rm(plain).item(), rel=1e-9, abs=1e-9)
    # Centered, the constant that makes the sum 0 is the best.
    middle = scored(chosen - (chosen + rejected) / 2, rejected - (chosen + rejected) / 2)
    assert rm(middle, centering=0.01).item() <= rm(shifted, centering=0.01).item() + 1e-9


@settings(max_examples=60, deadline=None)
@given(scores, scores)
def test_swapping_chosen_and_rejected_mirrors_the_slopes(chosen, rejected) -> None:
    up, down = slopes(scored(chosen, rejected))
    other_up, other_down = slopes(scored(rejected, chosen))
    assert up == pytest.approx(-down)
    assert other_down - up == pytest.approx(1.0)
    assert other_up - down == pytest.approx(-1.0)


@pytest.mark.parametrize("gap", [1e4, -1e4, 1e6])
def test_no_gap_is_too_large(gap: float) -> None:
    value = rm(scored(gap, 0.0))
    assert value.item() == pytest.approx(max(0.0, -gap))
    assert slopes(scored(gap, 0.0)) == pytest.approx([0.0, 0.0] if gap > 0 else [-1.0, 1.0])
