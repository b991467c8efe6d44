"""The contributed losses that know the whole step or the steps before: AOT, beta-DPO and BCO."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_by_hand import is_dpo, step_pairs
from torch import Tensor

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.algorithms.contrib.aot import aot
from oxrl_core.algorithms.contrib.bco import bco, running_shift
from oxrl_core.algorithms.contrib.beta_dpo import beta_dpo, running_gap
from oxrl_core.algorithms.preference import dpo
from oxrl_core.types import Labeled, StepPairs

STEP = st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=8)
quick = settings(max_examples=60, deadline=None)


def micro_batches(step: StepPairs, size: int) -> list[StepPairs]:
    """The step in parts of that many pairs; each of them still knows the log-ratios of all."""

    def part(rows: slice) -> StepPairs:
        names = ("chosen_mask", "rejected_mask", "margins", "chosen_ref", "rejected_ref", "index")
        return replace(
            step,
            **{name: getattr(step, name)[rows] for name in names},
            chosen_logprobs=step.chosen_logprobs[rows],
            rejected_logprobs=step.rejected_logprobs[rows],
        )

    return [part(slice(start, start + size)) for start in range(0, len(step.index), size)]


def slopes(value: Tensor, step: StepPairs) -> Tensor:
    """(2, N) derivatives by the chosen and the rejected log-probs."""
    return torch.stack(torch.autograd.grad(value, (step.chosen_logprobs, step.rejected_logprobs)))[:, :, 1]


# ---- AOT -------------------------------------------------------------------------------------------------------------


def test_aot_worked_by_hand() -> None:
    # Sorted, chosen are 0, 10, 30 and rejected -10, 0, 20: three gaps of 10, and l(0.1 x 10) = 0.3132617 each.
    values = aot(step_pairs([30.0, 0.0, 10.0], [0.0, 20.0, -10.0]), beta=0.1)
    assert values.sum().item() == pytest.approx(3 * 0.3132617)
    # DPO sees the gaps 30, -20, 20.
    assert dpo(step_pairs([30.0, 0.0, 10.0], [0.0, 20.0, -10.0]), beta=0.1).sum().item() == pytest.approx(
        0.0485874 + 2.1269280 + 0.1269280
    )


@quick
@given(STEP, st.integers(1, 4))
def test_aot_over_micro_batches_has_value_and_gradient_of_the_sorted_loss(
    ratios: list[tuple[float, float]], size: int
) -> None:
    chosen, rejected = (list(side) for side in zip(*ratios, strict=True))
    step = step_pairs(chosen, rejected)
    value = torch.cat([aot(part, beta=0.1) for part in micro_batches(step, size)]).sum()
    sorted_gaps = step.chosen_logratio.sort(stable=True).values - step.rejected_logratio.sort(stable=True).values
    expected = torch.nn.functional.softplus(-0.1 * sorted_gaps).sum()
    assert value.item() == pytest.approx(expected.item())
    assert torch.allclose(slopes(value, step), slopes(expected, step), atol=1e-9)


@quick
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=8, unique=True), st.integers(0, 99))
def test_aot_does_not_care_who_was_paired_with_whom(rejected: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = (9 * torch.randn(len(rejected), generator=generator, dtype=torch.float64)).tolist()
    order = torch.randperm(len(rejected), generator=generator)
    step, shuffled = step_pairs(chosen, rejected), step_pairs(chosen, [rejected[i] for i in order])
    value, other = aot(step).sum(), aot(shuffled).sum()
    assert value.item() == pytest.approx(other.item())
    expected = slopes(value, step)
    expected[1] = expected[1][order]
    assert torch.allclose(slopes(other, shuffled), expected, atol=1e-9)


def test_aot_of_one_pair_is_dpo() -> None:
    is_dpo(aot)


def test_aot_teaches_little_where_every_quantile_is_already_better() -> None:
    better, worse = step_pairs([100.0, 300.0], [0.0, 200.0]), step_pairs([0.0, 200.0], [100.0, 300.0])
    assert slopes(aot(better).sum(), better).abs().max() < 1e-4 * 0.1
    assert torch.allclose(slopes(aot(worse).sum(), worse), torch.tensor([[-0.1], [0.1]]).double(), rtol=1e-4)


# ---- beta-DPO --------------------------------------------------------------------------------------------------------


def test_beta_dpo_worked_by_hand() -> None:
    # Gaps 10 and 30, mean 20, average so far 15: beta = 0.1 (1 + 0.6 x 5) = 0.4; l(4) and l(12).
    step = replace(step_pairs([5.0, 30.0], [-5.0, 0.0]), running={"gap": 15.0})
    assert beta_dpo(step, beta=0.1, alpha=0.6).tolist() == pytest.approx([0.01814993, 6.144193e-06])


def test_beta_dpo_with_alpha_zero_is_dpo() -> None:
    for chosen, rejected in ((3.0, -9.0), (-20.0, 1.0)):
        step = replace(step_pairs([chosen, 50.0], [rejected, 0.0]), running={"gap": -7.0})
        assert torch.equal(beta_dpo(step, alpha=0.0), dpo(step, beta=0.1))


def test_beta_dpo_in_a_step_like_those_before_is_dpo_and_beta_itself_has_no_gradient() -> None:
    step = replace(step_pairs([3.0, 5.0], [1.0, -1.0]), running={"gap": 4.0})
    value, expected = beta_dpo(step).sum(), dpo(step).sum()
    assert value.item() == pytest.approx(expected.item())
    assert torch.allclose(slopes(value, step), slopes(expected, step))


def test_beta_dpo_is_more_careful_with_a_step_of_wide_gaps_and_never_turns_round() -> None:
    wide = replace(step_pairs([9.0], [0.0]), running={"gap": 4.0})
    narrow = replace(step_pairs([9.0], [0.0]), running={"gap": 12.0})  # beta would be 0.1 (1 - 0.6 x 3) < 0
    # beta = 0.1 x (1 + 0.6 x 5) = 0.4, and the floor 0.001
    assert beta_dpo(wide).item() == pytest.approx(math.log1p(math.exp(-3.6)))
    assert beta_dpo(narrow).item() == pytest.approx(math.log1p(math.exp(-0.009)))


def test_beta_dpo_remembers_the_moving_average_of_the_mean_gaps_this_step_included() -> None:
    params = get_algorithm("beta_dpo").params
    first = running_gap(step_pairs([6.0, 2.0], [0.0, 0.0]), {}, params)
    assert first == {"gap": 4.0}
    # 0.9 x 4 + 0.1 x 14
    assert running_gap(step_pairs([14.0], [0.0]), first, params) == pytest.approx({"gap": 5.0})
    assert get_algorithm("beta_dpo").running is running_gap


# ---- BCO -------------------------------------------------------------------------------------------------------------


def labeled(desirable: list[float], undesirable: list[float], delta: float = 0.0) -> Labeled:
    """A whole step of completions with these log-ratios."""
    logratio = torch.tensor([*desirable, *undesirable], dtype=torch.float64)
    is_desirable = torch.arange(len(logratio)) < len(desirable)
    return Labeled(
        logratio=logratio.clone().requires_grad_(),
        is_desirable=is_desirable,
        step_logratio=logratio,
        step_is_desirable=is_desirable,
        step_mismatched=torch.zeros_like(logratio),
        running={"delta": delta},
    )


def test_bco_worked_by_hand() -> None:
    # rewards 2 and -1, delta 1: l(2 - 1) and l(-(-1 - 1)) = l(2)
    assert bco(labeled([20.0], [-10.0], delta=1.0), beta=0.1).tolist() == pytest.approx([0.3132617, 0.1269280])


def test_bco_shift_is_midway_between_the_mean_rewards_of_both_kinds_over_all_steps() -> None:
    params = {"beta": 0.1}
    first = running_shift(labeled([10.0, 30.0], [-40.0]), {}, params)
    assert first["delta"] == pytest.approx((2.0 - 4.0) / 2)
    # desirable: 1, 3, 8 have the mean 4; undesirable: -4, 0 have -2. The mean of all five would be 1.6.
    second = running_shift(labeled([80.0], [0.0]), first, params)
    assert second["delta"] == pytest.approx((4.0 - 2.0) / 2)
    assert get_algorithm("bco").running is running_shift


def test_bco_shift_of_balanced_data_is_the_running_mean_of_all_rewards() -> None:
    before: dict[str, float] = {}
    rewards: list[float] = []
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        desirable, undesirable = (torch.randn(3, generator=generator) * 9).tolist(), [1.0, -2.0, 3.0]
        rewards += [0.01 * ratio for ratio in (*desirable, *undesirable)]
        before = running_shift(labeled(desirable, undesirable), before, {"beta": 0.01})
        assert before["delta"] == pytest.approx(sum(rewards) / len(rewards))


def test_bco_knows_the_reward_of_a_kind_that_it_has_not_seen_to_be_zero_at_the_reference() -> None:
    assert running_shift(labeled([10.0, 30.0], []), {}, {"beta": 0.1})["delta"] == pytest.approx(2.0 / 2)


@quick
@given(st.floats(-15, 15), st.floats(-15, 15), st.floats(-5, 5))
def test_bco_of_both_completions_of_a_pair_is_an_upper_bound_of_dpo_at_any_shift(
    chosen: float, rejected: float, delta: float
) -> None:
    bound = bco(labeled([chosen], [rejected], delta=delta), beta=0.5).sum().item()
    assert bound > dpo(step_pairs([chosen], [rejected]), beta=0.5).item()


@quick
@given(st.floats(-15, 15), st.floats(-15, 15))
def test_bco_shift_of_a_pair_makes_the_bound_the_tightest(chosen: float, rejected: float) -> None:
    def bound(delta: float) -> float:
        return bco(labeled([chosen], [rejected], delta=delta), beta=0.5).sum().item()

    best = running_shift(labeled([chosen], [rejected]), {}, {"beta": 0.5})["delta"]
    assert all(bound(best) <= bound(best + step) + 1e-12 for step in (-2.0, -0.1, 0.1, 2.0))


def test_bco_raises_the_desirable_and_lowers_the_undesirable() -> None:
    step = labeled([5.0, -5.0], [5.0, -5.0], delta=0.3)
    bco(step).sum().backward()
    assert (step.logratio.grad < 0).tolist() == [True, True, False, False]
