"""The contributed preference losses: what their papers promise, values worked out by hand, and TRL.

l(x) = -log sigmoid(x): l(1) = 0.3132617, l(-1) = 1.3132617, l(2) = 0.1269280, l(-2) = 2.1269280, l(0) = log 2.
sigmoid(1) = 0.7310586, sigmoid(-1) = 0.2689414, sigmoid(2) = 0.8807971.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_by_hand import Loss, completions, is_dpo, one, step_pairs
from torch.distributions import Bernoulli, kl_divergence

from oxrl_core.algorithms.base import check_params, get_algorithm
from oxrl_core.algorithms.contrib.alpha_po import alpha_po
from oxrl_core.algorithms.contrib.apo import apo_down, apo_zero
from oxrl_core.algorithms.contrib.cdpo import cdpo
from oxrl_core.algorithms.contrib.cpo import cpo
from oxrl_core.algorithms.contrib.cpo_simpo import cpo_simpo
from oxrl_core.algorithms.contrib.disco_pop import disco_pop
from oxrl_core.algorithms.contrib.dpop import dpop
from oxrl_core.algorithms.contrib.exo import exo
from oxrl_core.algorithms.contrib.hinge_norm import hinge_norm
from oxrl_core.algorithms.contrib.nca import nca
from oxrl_core.algorithms.contrib.r_dpo import r_dpo
from oxrl_core.algorithms.contrib.robust_dpo import robust_dpo
from oxrl_core.algorithms.contrib.slic import slic
from oxrl_core.algorithms.contrib.sppo import sppo
from oxrl_core.algorithms.preference import dpo, simpo
from oxrl_core.errors import ConfigError

ROOT = Path(__file__).parents[3]
LN_2 = math.log(2)
RATIO = st.floats(-15, 15)
REFERENCED = [apo_down, apo_zero, cdpo, disco_pop, dpop, exo, hinge_norm, nca, r_dpo, robust_dpo, sppo]
quick = settings(max_examples=60, deadline=None)


def test_value_and_gradient_are_those_of_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from scripts.parity.contrib_a import rows

    seen = rows()
    assert len(seen) == 15
    assert [row for row in seen if max(row.value_error, row.gradient_error) > 1e-6] == []
    assert all(row.cases >= 16 for row in seen)


@pytest.mark.parametrize("loss", REFERENCED)
def test_at_the_reference_no_loss_lowers_the_chosen_or_raises_the_rejected_but_apo_down_and_disco_pop(
    loss: Loss,
) -> None:
    _, chosen, rejected = one(loss, 0.0, 0.0)
    if loss is disco_pop:
        assert chosen > 0 > rejected  # see test_disco_pop_rises_on_a_short_stretch
    else:
        assert chosen <= 0 < rejected
        assert (chosen == 0) == (loss is apo_down)


@pytest.mark.parametrize("loss", REFERENCED)
def test_far_from_the_reference_value_and_gradient_are_numbers(loss: Loss) -> None:
    ratios = [-3000.0, 3000.0, -3000.0, 3000.0, 0.0]
    pairs = step_pairs(ratios, [3000.0, -3000.0, -3000.0, 3000.0, -3000.0], dtype=torch.float32)
    values = loss(pairs)
    values.sum().backward()
    for tensor in (values, pairs.chosen_logprobs.grad, pairs.rejected_logprobs.grad):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("cdpo", {"label_smoothing": 0.5}),
        ("robust_dpo", {"label_smoothing": 0.5}),  # divides by 1 - 2 x 0.5
        ("exo", {"label_smoothing": 0.0}),  # the KL is infinite
        ("r_dpo", {"alpha": -0.1}),
        ("sppo", {"beta": 0.0}),
        ("disco_pop", {"tau": 0.0}),
        ("dpop", {"penalty": -1.0}),
        ("slic", {"delta": 0.0}),
        ("beta_dpo", {"momentum": 1.1}),
        ("beta_dpo", {"beta_min": 0.0}),
    ],
)
def test_parameters_outside_the_paper_are_refused(name: str, params: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        check_params(get_algorithm(name), params)


# ---- labels that may be wrong: cDPO, robust DPO, EXO -----------------------------------------------------------------


def test_cdpo_worked_by_hand() -> None:
    # beta gap = 0.1 x (6 + 4) = 1: 0.9 l(1) + 0.1 l(-1) = 0.2819355 + 0.1313262
    assert one(cdpo, 6.0, -4.0, beta=0.1, label_smoothing=0.1)[0] == pytest.approx(0.4132617)


def test_cdpo_rests_where_the_policy_believes_the_labels_as_far_as_they_are_right() -> None:
    gap = math.log(0.9 / 0.1) / 0.1  # sigmoid(0.1 gap) = 0.9
    assert one(cdpo, gap, 0.0, beta=0.1, label_smoothing=0.1)[1:] == pytest.approx((0.0, 0.0))
    assert one(cdpo, gap - 1, 0.0, beta=0.1, label_smoothing=0.1)[1] < 0 < one(cdpo, gap + 1, 0.0, beta=0.1)[1]


@pytest.mark.parametrize("loss", [cdpo, robust_dpo])
def test_with_labels_that_are_always_right_they_are_dpo(loss: Loss) -> None:
    is_dpo(loss, label_smoothing=0.0)


def test_robust_dpo_worked_by_hand() -> None:
    # (0.9 l(1) - 0.1 l(-1)) / 0.8 = (0.2819355 - 0.1313262) / 0.8
    assert one(robust_dpo, 6.0, -4.0, beta=0.1, label_smoothing=0.1)[0] == pytest.approx(0.1882617)


@quick
@given(RATIO, RATIO, st.floats(0.0, 0.45))
def test_robust_dpo_over_flipped_labels_is_on_average_dpo_on_the_true_ones(
    chosen: float, rejected: float, flipped: float
) -> None:
    right = one(robust_dpo, chosen, rejected, beta=0.1, label_smoothing=flipped)
    wrong_value, wrong_chosen, wrong_rejected = one(robust_dpo, rejected, chosen, beta=0.1, label_smoothing=flipped)
    wrong = (wrong_value, wrong_rejected, wrong_chosen)  # the true chosen completion stands as the rejected one
    average = [(1 - flipped) * a + flipped * b for a, b in zip(right, wrong, strict=True)]
    assert average == pytest.approx(one(dpo, chosen, rejected, beta=0.1), abs=1e-9)


def test_cdpo_over_flipped_labels_is_not_dpo_on_the_true_ones() -> None:
    right, wrong = (one(cdpo, gap, 0.0, beta=0.1, label_smoothing=0.1)[0] for gap in (10.0, -10.0))
    # 0.9 x 0.4132617 + 0.1 x (0.9 l(-1) + 0.1 l(1)) = 0.3719355 + 0.1213262; l(1) is 0.3132617
    assert 0.9 * right + 0.1 * wrong == pytest.approx(0.4932617)


@quick
@given(RATIO, RATIO, st.floats(0.01, 0.4))
def test_exo_is_the_reverse_and_cdpo_the_forward_kl_to_the_labels(
    chosen: float, rejected: float, smoothing: float
) -> None:
    policy = Bernoulli(probs=torch.tensor(chosen - rejected, dtype=torch.float64).mul(0.1).sigmoid())
    labels = Bernoulli(probs=torch.tensor(1 - smoothing, dtype=torch.float64))
    reverse = one(exo, chosen, rejected, beta=0.1, label_smoothing=smoothing)[0]
    assert reverse == pytest.approx(kl_divergence(policy, labels).item(), abs=1e-9)
    forward = one(cdpo, chosen, rejected, beta=0.1, label_smoothing=smoothing)[0] - labels.entropy().item()
    assert forward == pytest.approx(kl_divergence(labels, policy).item(), abs=1e-9)


def test_exo_is_zero_where_the_policy_is_as_sure_as_the_labels() -> None:
    gap = math.log(0.999 / 0.001) / 0.1
    assert one(exo, gap, 0.0, beta=0.1, label_smoothing=1e-3) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_exo_with_a_large_beta_says_right_or_wrong() -> None:
    # the KL from certainty: -log(1 - e) on the right side, -log e on the wrong one
    assert one(exo, 1.0, 0.0, beta=1e4, label_smoothing=1e-3)[0] == pytest.approx(-math.log(0.999))
    assert one(exo, 0.0, 1.0, beta=1e4, label_smoothing=1e-3)[0] == pytest.approx(-math.log(0.001))


# ---- R-DPO -----------------------------------------------------------------------------------------------------------


def test_r_dpo_on_equal_lengths_is_dpo() -> None:
    is_dpo(r_dpo, alpha=5.0)


def test_r_dpo_worked_by_hand() -> None:
    # gap = (-3 + 2) - (-11 + 2) = 8, lengths 3 and 1: l(0.05 x 8 + 0.3 x 2) = l(1)
    pair = completions([-1.0, -1.0, -1.0], [-11.0])
    assert r_dpo(pair, beta=0.05, alpha=0.3).item() == pytest.approx(0.3132617)
    assert r_dpo(completions([-11.0], [-1.0, -1.0, -1.0]), beta=0.05, alpha=0.3).item() == pytest.approx(1.3132617)


def test_r_dpo_rests_at_the_best_policy_for_a_reward_that_pays_for_length() -> None:
    # pi(y) is proportional to ref(y) exp((reward(y) - alpha |y|) / beta), and labels prefer by the reward alone.
    beta, alpha, rewards, lengths, ref = 0.5, 0.2, (1.0, 0.3), (5, 2), (-4.0, -1.5)
    logits = [ref[i] + (rewards[i] - alpha * lengths[i]) / beta for i in (0, 1)]
    normaliser = math.log(sum(map(math.exp, logits)))
    first, second = ([(logits[i] - normaliser) / lengths[i]] * lengths[i] for i in (0, 1))
    prefers_first = 1 / (1 + math.exp(rewards[1] - rewards[0]))
    right, wrong = completions(first, second, *ref), completions(second, first, *reversed(ref))
    loss = prefers_first * r_dpo(right, beta=beta, alpha=alpha) + (1 - prefers_first) * r_dpo(
        wrong, beta=beta, alpha=alpha
    )
    loss.sum().backward()
    for a, b in ((right.chosen_logprobs, wrong.rejected_logprobs), (right.rejected_logprobs, wrong.chosen_logprobs)):
        assert torch.allclose(a.grad + b.grad, torch.zeros_like(a), atol=1e-12)


# ---- NCA, SPPO, APO: the log-ratios themselves count, not their difference alone -------------------------------------


def test_nca_worked_by_hand() -> None:
    # c = 1, r = -1: l(1) + l(-1) / 2 + l(1) / 2 = 0.3132617 + 0.6566308 + 0.1566308
    assert one(nca, 10.0, -10.0, beta=0.1)[0] == pytest.approx(1.1265234)
    assert one(nca, 0.0, 0.0)[0] == pytest.approx(2 * LN_2)


def test_nca_rests_where_the_chosen_completion_is_twice_as_likely_as_noise() -> None:
    # d/dc: -(1 - s) + s / 2 = 0 at s = sigmoid(c) = 2 / 3, so c = log 2; the rejected one is always lowered
    _, chosen, rejected = one(nca, LN_2 / 0.01, 5.0, beta=0.01)
    assert chosen == pytest.approx(0.0)
    assert rejected > 0


@quick
@given(RATIO, RATIO)
def test_nca_of_a_pair_in_both_orders_is_the_classification_of_both_as_data_and_as_noise(
    first: float, second: float
) -> None:
    def bce(logit: float) -> float:
        return math.log1p(math.exp(-logit)) + math.log1p(math.exp(logit))

    both_orders = one(nca, first, second, beta=1.0)[0] + one(nca, second, first, beta=1.0)[0]
    assert both_orders == pytest.approx(bce(first) + bce(second))


def test_sppo_worked_by_hand() -> None:
    # targets +-1 / 0.2 = +-5: (3 - 5)^2 + (-1 + 5)^2 = 20; slopes 2 (3 - 5) and 2 (-1 + 5)
    assert one(sppo, 3.0, -1.0, beta=0.1) == pytest.approx((20.0, -4.0, 8.0))


def test_sppo_is_zero_at_eta_times_the_win_probability_minus_one_half() -> None:
    assert one(sppo, 500.0, -500.0) == (0.0, 0.0, 0.0)  # eta = 1000, as in the paper
    # A gap of 1000 between other log-ratios is not enough.
    assert one(sppo, 300.0, -700.0)[0] == pytest.approx(2 * 200.0**2)


def test_apo_worked_by_hand() -> None:
    # c = 1, r = -1: zero: 1 - sigmoid(1) + sigmoid(-1) = 2 x 0.2689414; down: sigmoid(1) + 1 - sigmoid(2)
    assert one(apo_zero, 10.0, -10.0, beta=0.1)[0] == pytest.approx(0.5378828)
    assert one(apo_down, 10.0, -10.0, beta=0.1)[0] == pytest.approx(0.7310586 + 0.1192029)


@quick
@given(RATIO, RATIO)
def test_apo_zero_raises_the_chosen_and_lowers_the_rejected(chosen: float, rejected: float) -> None:
    _, chosen_slope, rejected_slope = one(apo_zero, chosen, rejected)
    assert chosen_slope < 0 < rejected_slope


@quick
@given(RATIO, RATIO)
def test_apo_down_lowers_the_rejected_and_the_chosen_while_it_is_nearer_to_the_reference(
    chosen: float, rejected: float
) -> None:
    _, chosen_slope, rejected_slope = one(apo_down, chosen, rejected, beta=1.0)
    assert rejected_slope > 0
    distance = abs(chosen - rejected) - abs(chosen)
    if abs(distance) > 1e-3 and min(abs(chosen), abs(chosen - rejected)) < 10:
        assert (chosen_slope > 0) == (distance > 0)


# ---- DPOP, hinges, DiscoPOP ------------------------------------------------------------------------------------------


@quick
@given(st.floats(0, 15), RATIO)
def test_dpop_is_dpo_while_the_chosen_completion_has_lost_nothing(chosen: float, rejected: float) -> None:
    value, *_ = one(dpop, chosen, rejected, beta=0.3)
    assert value == pytest.approx(one(dpo, chosen, rejected, beta=0.3)[0])


def test_dpop_worked_by_hand() -> None:
    # c = -0.1, r = -0.5: x = 0.3 (0.4 - 50 x 0.1) = -1.38; l(x) = log(1 + e^1.38), with slope -sigmoid(1.38)
    value, chosen, rejected = one(dpop, -0.1, -0.5)
    assert value == pytest.approx(1.6044056)
    assert chosen == pytest.approx(-0.7989910 * 0.3 * (1 + 50))
    assert rejected == pytest.approx(0.7989910 * 0.3)


def test_dpop_widens_no_gap_at_the_cost_of_the_chosen_completion() -> None:
    # DPO falls from one pair to the other, DPOP rises: both lose likelihood, the rejected one more.
    assert one(dpo, -1.0, -5.0)[0] < one(dpo, 0.0, 0.0)[0]
    assert one(dpop, -1.0, -5.0)[0] > one(dpop, 0.0, 0.0)[0]


def test_hinge_norm_is_zero_once_the_gap_is_one_over_beta() -> None:
    assert one(hinge_norm, 7.0, -4.0, beta=0.1) == (0.0, 0.0, 0.0)
    assert one(hinge_norm, 3.0, -4.0, beta=0.1) == pytest.approx((0.3, -0.1, 0.1))


def test_slic_worked_by_hand() -> None:
    # max(0, 1 + 3 - 2) + 0.5 x 3 = 3.5: sums, not means; each chosen token has the slope -1 - 0.5
    pair = completions([-1.0, -2.0], [-2.0])
    loss = slic(pair, delta=1.0, nll_coef=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(3.5)
    assert pair.chosen_logprobs.grad[0, 1:].tolist() == [-1.5, -1.5]
    assert pair.rejected_logprobs.grad[0, 1].item() == 1.0


def test_slic_with_the_margin_met_is_the_likelihood_alone() -> None:
    pair = completions([-1.0], [-4.0, -1.0])
    loss = slic(pair, delta=4.0, nll_coef=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(2.0)
    assert not pair.rejected_logprobs.grad.any()


def test_disco_pop_worked_by_hand() -> None:
    # x = 0: log 2 / 2 + 1 / 2
    assert one(disco_pop, 0.0, 0.0)[0] == pytest.approx(0.8465736)
    # x = 0.05 x -1: s = sigmoid(-1); 0.7310586 log(1 + e^0.05) + 0.2689414 e^0.05 = 0.5252363 + 0.2827302
    assert one(disco_pop, 0.0, 1.0)[0] == pytest.approx(0.8079665, rel=1e-5)


def test_disco_pop_is_logistic_far_on_the_wrong_and_exponential_far_on_the_right_side() -> None:
    assert one(disco_pop, -10.0, 10.0, beta=0.1)[0] == pytest.approx(2.1269280)  # l(-2)
    assert one(disco_pop, 10.0, -10.0, beta=0.1)[0] == pytest.approx(math.exp(-2.0))
    assert one(disco_pop, -5000.0, 5000.0, beta=0.1)[0] == pytest.approx(1000.0)  # e^1000 x 0 would be a NaN


def test_disco_pop_rises_on_a_short_stretch() -> None:
    # As the paper finds: from log 2 of the logistic to 1 of the exponential loss; x from -0.05 to 0.
    assert one(disco_pop, 0.0, 1.0)[0] < one(disco_pop, 0.0, 0.0)[0]
    assert one(disco_pop, 0.0, 0.0)[1] > 0 > one(disco_pop, 6.0, 0.0)[1]


# ---- without a reference: CPO, CPO-SimPO, AlphaPO --------------------------------------------------------------------


def test_cpo_worked_by_hand() -> None:
    # chosen -3 of 2 tokens, rejected -13 of 1: l(0.1 x 10) + 0.5 x 3 / 2
    assert cpo(completions([-1.0, -2.0], [-13.0]), beta=0.1, nll_coef=0.5).item() == pytest.approx(1.0632617)


def test_cpo_is_dpo_with_a_uniform_reference_and_the_likelihood_of_the_chosen() -> None:
    pair = completions([-1.0, -2.0], [-0.5, -7.0, -0.1])  # both as likely under the reference
    assert cpo(pair, beta=0.3, nll_coef=0.0).item() == pytest.approx(dpo(pair, beta=0.3).item())
    assert (cpo(pair, nll_coef=2.0) - cpo(pair, nll_coef=0.0)).item() == pytest.approx(2 * 1.5)


@quick
@given(st.lists(st.floats(-9, -0.01), min_size=1, max_size=5), st.floats(-9, -0.01))
def test_cpo_on_equal_lengths_is_simpo_without_margin_at_beta_times_the_length(
    chosen: list[float], rejected: float
) -> None:
    pair = completions(chosen, [rejected] * len(chosen))
    likelihood = 0.7 * sum(chosen) / len(chosen)
    expected = simpo(pair, beta=0.2 * len(chosen), gamma=0.0).item() - likelihood
    assert cpo(pair, beta=0.2, nll_coef=0.7).item() == pytest.approx(expected)
    assert cpo_simpo(pair, beta=0.2 * len(chosen), gamma=0.0, nll_coef=0.7).item() == pytest.approx(expected)


def test_cpo_simpo_worked_by_hand() -> None:
    # per token -1 and -2.5: l(2 x 1.5 - 1) + 0.05 x 1 = 0.1269280 + 0.05
    pair = completions([-0.5, -1.5], [-2.5])
    assert cpo_simpo(pair, beta=2.0, gamma=1.0, nll_coef=0.05).item() == pytest.approx(0.1769280)
    assert cpo_simpo(pair, beta=2.0, gamma=1.0, nll_coef=0.0).item() == pytest.approx(
        simpo(pair, beta=2.0, gamma=1.0).item()
    )


def test_alpha_po_worked_by_hand() -> None:
    # p = 1/2 and 1/4 per token, alpha 1: rewards 1 - 2 and 1 - 4; l(2 - 1)
    pair = completions([-LN_2, -LN_2], [-2 * LN_2])
    assert alpha_po(pair, beta=1.0, alpha=1.0, gamma=1.0).item() == pytest.approx(0.3132617)
    # alpha -1: rewards p - 1, -1/2 and -3/4; l(8 x 0.25 - 1)
    assert alpha_po(pair, beta=8.0, alpha=-1.0, gamma=1.0).item() == pytest.approx(0.3132617)


@quick
@given(st.lists(st.floats(-9, -0.01), min_size=1, max_size=4), st.lists(st.floats(-9, -0.01), min_size=1, max_size=4))
def test_alpha_po_as_alpha_goes_to_zero_is_simpo(chosen: list[float], rejected: list[float]) -> None:
    pair = completions(chosen, rejected)
    expected = simpo(pair, beta=2.0, gamma=0.5).item()
    assert alpha_po(pair, beta=2.0, alpha=0.0, gamma=0.5).item() == expected
    for alpha in (1e-7, -1e-7):
        assert alpha_po(pair, beta=2.0, alpha=alpha, gamma=0.5).item() == pytest.approx(expected, abs=1e-4)


def test_alpha_po_has_the_gradient_of_simpo_times_the_shape_of_the_reward() -> None:
    # d reward / d log p = p^-alpha: 2 and 4 for p = 1/2 and 1/4 at alpha 1
    pair = completions([-LN_2], [-2 * LN_2])
    alpha_po(pair, beta=1.0, alpha=1.0, gamma=0.0).backward()
    slope = 1 - 0.8807971  # of l at the reward gap 2
    assert pair.chosen_logprobs.grad[0, 1].item() == pytest.approx(-2 * slope, rel=1e-5)
    assert pair.rejected_logprobs.grad[0, 1].item() == pytest.approx(4 * slope, rel=1e-5)
