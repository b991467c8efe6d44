"""Variants of DPO that change what the gap is or what it is measured against: by hand, and each paper's property."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_by_hand import completions, is_dpo, one, step_pairs

from oxrl_core.algorithms.contrib.chi_po import chi_po
from oxrl_core.algorithms.contrib.dpo_norm import dpo_norm
from oxrl_core.algorithms.contrib.dpo_shift import dpo_shift
from oxrl_core.algorithms.contrib.focal_po import focal_po
from oxrl_core.algorithms.contrib.h_dpo import h_dpo
from oxrl_core.algorithms.contrib.minor_dpo import minor_dpo
from oxrl_core.algorithms.contrib.odpo import odpo
from oxrl_core.algorithms.contrib.ropo import ropo
from oxrl_core.algorithms.contrib.rpo import rpo
from oxrl_core.algorithms.contrib.sim_per import sim_per
from oxrl_core.algorithms.preference import dpo

LN_2 = math.log(2)
RATIO = st.floats(-15, 15)


# ---- chi-PO ---------------------------------------------------------------------------------------------------------


def test_the_link_of_chi_po_is_the_ratio_plus_its_logarithm() -> None:
    assert one(chi_po, 0.0, 0.0)[0] == pytest.approx(LN_2)
    # Ratios 2 and 1: the reward gap is beta (1 + log 2).
    assert one(chi_po, LN_2, 0.0, beta=1.0)[0] == pytest.approx(math.log(1 + math.exp(-1 - LN_2)))
    # Ratios 2 and 1/2, squared 4 and 1/4.
    assert one(chi_po, LN_2, -LN_2, beta=1.0, alpha=2.0, gamma=0.5)[0] == pytest.approx(
        math.log(1 + math.exp(-3.75 - LN_2))
    )
    # d (u + log u) / d log u = u + 1: twice DPO's at the reference.
    assert one(chi_po, 0.0, 0.0, beta=0.1)[1:] == pytest.approx((-0.1, 0.1))


def test_chi_po_rewards_a_completion_beyond_its_log_ratio_so_that_the_policy_stays_near() -> None:
    # DPO needs a gap of 20 for a reward gap of 2, whatever the chosen one gains; here log 20 of it is nearly enough.
    assert one(chi_po, 3.0, 0.0, beta=0.1)[0] < one(dpo, 20.0, 0.0, beta=0.1)[0] < one(chi_po, 2.5, 0.0, beta=0.1)[0]


def test_chi_po_clips_the_reward_gap_at_twice_the_largest_reward() -> None:
    inside, clipped = one(chi_po, 0.1, 0.0, reward_bound=0.5), one(chi_po, 9.0, 0.0, reward_bound=0.5)
    assert inside == one(chi_po, 0.1, 0.0)
    assert clipped == pytest.approx((math.log(1 + math.exp(-1)), 0.0, 0.0))


# ---- ODPO -----------------------------------------------------------------------------------------------------------


def test_odpo_without_a_margin_is_dpo() -> None:
    is_dpo(odpo)


def test_odpo_asks_for_a_gap_of_alpha_times_the_margin() -> None:
    assert one(odpo, 6.0, -4.0, margin=2.0, beta=0.1, alpha=0.5)[0] == pytest.approx(LN_2)
    assert one(odpo, 0.0, 0.0, margin=2.0, alpha=0.5)[0] == pytest.approx(math.log(1 + math.e))


def test_odpo_with_log_margins_is_dpo_at_a_margin_of_one() -> None:
    is_dpo(odpo, scaling="log", margin=1.0)
    assert one(odpo, 0.0, 0.0, margin=math.e**2, scaling="log", alpha=0.5)[0] == pytest.approx(math.log(1 + math.e))
    assert one(odpo, 0.0, 0.0, margin=0.0, scaling="log") == pytest.approx((0.0, 0.0, 0.0), abs=1e-29)


# ---- H-DPO ----------------------------------------------------------------------------------------------------------


def test_h_dpo_with_alpha_one_is_dpo() -> None:
    is_dpo(h_dpo, alpha=1.0)


@pytest.mark.parametrize("alpha", [0.5, 0.95, 1.0, 1.5])
def test_the_best_policy_of_h_dpo_is_the_reference_times_the_reward_to_the_power_of_one_over_alpha(
    alpha: float,
) -> None:
    beta, rewards = 0.5, torch.tensor([1.0, 0.2, -0.7], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    policy = ((reference + rewards / beta) / alpha).log_softmax(0)
    for better, worse in ((0, 1), (0, 2), (1, 2)):
        pairs = completions([policy[better].item()], [policy[worse].item()], reference[better], reference[worse])
        preference = torch.sigmoid(rewards[better] - rewards[worse])
        assert h_dpo(pairs, beta=beta, alpha=alpha).item() == pytest.approx(-preference.log().item())
    # And there J = E[reward] + alpha beta H(pi) - beta H(pi, ref) is largest.
    logits = policy.clone().requires_grad_()
    p, logp = logits.softmax(0), logits.log_softmax(0)
    objective = (p * (rewards - alpha * beta * logp + beta * reference)).sum()
    assert torch.autograd.grad(objective, logits)[0].abs().max() < 1e-12


# ---- FocalPO --------------------------------------------------------------------------------------------------------


def test_focal_po_with_gamma_zero_is_dpo() -> None:
    is_dpo(focal_po, gamma=0.0)


def test_focal_po_worked_by_hand() -> None:
    # p = 3/4: -p^2 log p, and by the gap -p^2 (1 - p) (1 + 2 log p).
    value, chosen, rejected = one(focal_po, math.log(3), 0.0, beta=1.0, gamma=2.0)
    assert value == pytest.approx(-9 / 16 * math.log(3 / 4))
    slope = 9 / 16 * 1 / 4 * (1 + 2 * math.log(3 / 4))
    assert (chosen, rejected) == pytest.approx((-slope, slope))


def test_focal_po_weighs_a_pair_the_less_the_further_it_is_on_the_wrong_side() -> None:
    weights = [one(focal_po, gap, 0.0, beta=1.0)[1] / one(dpo, gap, 0.0, beta=1.0)[1] for gap in range(-18, 10)]
    assert weights == sorted(weights)
    assert 0 < weights[0] < 0.1 and weights[-1] == pytest.approx(1.0, abs=1e-3)


# ---- DPO-Shift ------------------------------------------------------------------------------------------------------


def test_dpo_shift_with_the_whole_rejected_log_ratio_is_dpo() -> None:
    is_dpo(dpo_shift, rejected_weight=1.0)


def test_dpo_shift_worked_by_hand() -> None:
    # 2 - 3/4 of -4 is 5: -log sigmoid(1/2).
    value, chosen, rejected = one(dpo_shift, 2.0, -4.0, rejected_weight=0.75)
    assert value == pytest.approx(math.log(1 + math.exp(-0.5)))
    assert rejected == pytest.approx(-0.75 * chosen)


# ---- MinorDPO -------------------------------------------------------------------------------------------------------


@given(chosen=RATIO, rejected=st.floats(0, 15))
@settings(max_examples=50, deadline=None)
def test_minor_dpo_is_dpo_while_the_policy_finds_the_rejected_likelier_than_the_reference(
    chosen: float, rejected: float
) -> None:
    # A log-ratio of 0 or more, as rounding leaves it.
    rejected = max(rejected, 1e-9) if rejected else 0.0
    assert one(minor_dpo, chosen, rejected) == pytest.approx(one(dpo, chosen, rejected))


def test_the_rejected_penalty_of_minor_dpo_stops_below_the_reference() -> None:
    for rejected in (-0.01, -5.0, -500.0):
        value, chosen, slope = one(minor_dpo, 3.0, rejected)
        assert (value, chosen) == pytest.approx(one(dpo, 3.0, 0.0)[:2])
        assert slope == 0.0


# ---- RPO ------------------------------------------------------------------------------------------------------------


def test_rpo_is_dpo_and_the_likelihood_per_token_of_the_chosen_completion() -> None:
    pairs = completions([-1.0, -3.0, -0.5], [-2.0], chosen_ref=-4.5, rejected_ref=-2.0)
    assert rpo(pairs, alpha=0.0).item() == pytest.approx(LN_2)
    assert rpo(pairs).item() == pytest.approx(LN_2 + 1.5)
    assert rpo(pairs, alpha=0.2).item() == pytest.approx(LN_2 + 0.3)
    is_dpo(rpo, alpha=0.0)


def test_rpo_raises_the_chosen_completion_even_where_the_gap_is_won() -> None:
    value, chosen, rejected = one(rpo, 0.0, -2000.0)
    assert (value, chosen, rejected) == pytest.approx((3.0, -1.0, 0.0))


# ---- ROPO -----------------------------------------------------------------------------------------------------------


def test_ropo_worked_by_hand() -> None:
    # alpha 3: 4 alpha / (1 + alpha)^2 = 3/4.
    assert one(ropo, 0.0, 0.0, alpha=3.0)[0] == pytest.approx(0.75 * (1.5 + LN_2))
    # At sigmoid(x) = 3/4: 3/4 (3/4 + log 4/3), slope -3/4 (1/4 + 3 * 3/16).
    value, chosen, _ = one(ropo, math.log(3), 0.0, beta=1.0, alpha=3.0)
    assert value == pytest.approx(0.75 * (0.75 + math.log(4 / 3)))
    assert chosen == pytest.approx(-0.75 * (0.25 + 9 / 16))


@pytest.mark.parametrize("alpha", [2.0, 14.0, 30.0])
def test_the_largest_weight_of_ropo_is_one_and_stands_at_undecided_pairs(alpha: float) -> None:
    gaps = torch.linspace(-12, 12, 2401).tolist()
    pairs = step_pairs(gaps, [0.0] * len(gaps))
    ropo(pairs, beta=1.0, alpha=alpha).sum().backward()
    weights = -pairs.chosen_logprobs.grad[:, 1]
    assert weights.max().item() == pytest.approx(1.0, abs=1e-5)
    # sigmoid(-x) = (1 + alpha) / (2 alpha) there; far on the wrong side it falls to DPO's share of the sum.
    assert gaps[int(weights.argmax())] == pytest.approx(-math.log((1 + alpha) / (alpha - 1)), abs=0.011)
    assert weights[0].item() == pytest.approx(4 * alpha / (1 + alpha) ** 2, rel=1e-3)


@given(gap=RATIO)
@settings(max_examples=30, deadline=None)
def test_what_ropo_adds_to_dpo_is_tolerant_of_flipped_labels(gap: float) -> None:
    # A loss whose two labels always cost the same together has the same minimizer under every flip rate below 1/2.
    def added(gap: float) -> float:
        return one(ropo, gap, 0.0, alpha=14.0)[0] - 56 / 225 * one(dpo, gap, 0.0)[0]

    assert added(gap) + added(-gap) == pytest.approx(56 / 225 * 14)


# ---- SimPER ---------------------------------------------------------------------------------------------------------


def test_sim_per_worked_by_hand() -> None:
    # Geometric means of the probabilities: sqrt(1/2 * 1/8) = 1/4 and 1/16.
    pairs = completions([math.log(0.5), math.log(0.125)], [math.log(0.0625)])
    value = sim_per(pairs)
    value.sum().backward()
    assert value.item() == pytest.approx(1 / 16 - 1 / 4)
    assert pairs.chosen_logprobs.grad[0, 1:].tolist() == pytest.approx([-1 / 8, -1 / 8])
    assert pairs.rejected_logprobs.grad[0, 1].item() == pytest.approx(1 / 16)


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=5), st.lists(st.floats(-50, 0), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_sim_per_is_bounded_and_does_not_see_length(chosen: list[float], rejected: list[float]) -> None:
    value = sim_per(completions(chosen, rejected)).item()
    assert -1 <= value <= 1
    assert sim_per(completions(chosen * 3, rejected)).item() == pytest.approx(value)


# ---- length-normalized DPO ------------------------------------------------------------------------------------------


def test_dpo_norm_is_dpo_for_completions_of_one_token() -> None:
    for chosen, rejected in ((0.0, 0.0), (2.0, -1.0), (-7.0, 3.0)):
        assert one(dpo_norm, chosen, rejected, beta=0.3) == pytest.approx(one(dpo, chosen, rejected, beta=0.3))


def test_dpo_norm_worked_by_hand() -> None:
    # Log-ratios -3 + 1 over two tokens and -2 + 5 over one: -1 and 3 per token.
    pairs = completions([-1.0, -2.0], [-2.0], chosen_ref=-1.0, rejected_ref=-5.0)
    assert dpo_norm(pairs, beta=0.5).item() == pytest.approx(math.log(1 + math.exp(2)))


def test_dpo_norm_does_not_see_length() -> None:
    short = completions([-1.0, -2.0], [-2.0], chosen_ref=-1.0, rejected_ref=-5.0)
    long = completions([-1.0, -2.0] * 4, [-2.0] * 3, chosen_ref=-4.0, rejected_ref=-15.0)
    assert dpo_norm(long).item() == pytest.approx(dpo_norm(short).item())
    assert dpo(long).item() != pytest.approx(dpo(short).item())
