"""Variants of DPO that change its link, weights or targets: what holds for all, and those that change the link's slope
or the weights of pairs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_by_hand import Loss, completions, is_dpo, one, step_pairs

from oxrl_core.algorithms.base import all_algorithms, check_params
from oxrl_core.algorithms.contrib.cal_dpo import cal_dpo
from oxrl_core.algorithms.contrib.chi_po import chi_po
from oxrl_core.algorithms.contrib.dpo_norm import dpo_norm
from oxrl_core.algorithms.contrib.dpo_shift import dpo_shift
from oxrl_core.algorithms.contrib.dr_dpo import dr_dpo
from oxrl_core.algorithms.contrib.f_dpo import f_dpo
from oxrl_core.algorithms.contrib.focal_po import focal_po
from oxrl_core.algorithms.contrib.gpo import gpo
from oxrl_core.algorithms.contrib.h_dpo import h_dpo
from oxrl_core.algorithms.contrib.hinge_norm import hinge_norm
from oxrl_core.algorithms.contrib.minor_dpo import minor_dpo
from oxrl_core.algorithms.contrib.odpo import odpo
from oxrl_core.algorithms.contrib.ropo import ropo
from oxrl_core.algorithms.contrib.rpo import rpo
from oxrl_core.algorithms.contrib.sim_per import sim_per
from oxrl_core.algorithms.contrib.wpo import wpo
from oxrl_core.algorithms.preference import dpo, ipo
from oxrl_core.errors import ConfigError

ROOT = Path(__file__).parents[3]
LN_2 = math.log(2)
RATIO = st.floats(-15, 15)
LOSSES: list[tuple[Loss, dict[str, Any]]] = [
    (f_dpo, {"divergence": "reverse_kl"}),
    (f_dpo, {"divergence": "forward_kl"}),
    (f_dpo, {"divergence": "jensen_shannon"}),
    (f_dpo, {"divergence": "alpha"}),
    (gpo, {"function": "logistic"}),
    (gpo, {"function": "hinge"}),
    (gpo, {"function": "squared"}),
    (gpo, {"function": "exponential"}),
    (gpo, {"function": "truncated_quadratic"}),
    (gpo, {"function": "savage"}),
    (wpo, {}),
    (cal_dpo, {}),
    (dr_dpo, {}),
    (chi_po, {}),
    (chi_po, {"reward_bound": 2.0}),
    (odpo, {}),
    (odpo, {"scaling": "log"}),
    (h_dpo, {}),
    (focal_po, {}),
    (dpo_shift, {}),
    (minor_dpo, {}),
    (rpo, {}),
    (ropo, {}),
    (sim_per, {}),
    (dpo_norm, {}),
]
NAMES = [loss.__name__ + "".join(f"-{value}" for value in params.values()) for loss, params in LOSSES]


# ---- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "params"), LOSSES, ids=NAMES)
def test_where_policy_and_reference_are_equal_it_raises_the_chosen_and_lowers_the_rejected(
    loss: Loss, params: dict[str, Any]
) -> None:
    pairs = step_pairs([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], dtype=torch.float32)
    values = loss(pairs, **params)
    assert values.shape == (3,)
    values.sum().backward()
    assert (pairs.chosen_logprobs.grad[:, 1] < 0).all()
    assert (pairs.rejected_logprobs.grad[:, 1] > 0).all()


@pytest.mark.parametrize(("loss", "params"), LOSSES, ids=NAMES)
def test_far_from_the_reference_value_and_gradient_are_numbers(loss: Loss, params: dict[str, Any]) -> None:
    ratios = [-3000.0, 3000.0, -3000.0, 3000.0, 0.0]
    pairs = step_pairs(ratios, [3000.0, -3000.0, -3000.0, 3000.0, -3000.0], dtype=torch.float32)
    if loss is sim_per:  # its log-probs are log-probs of something
        pairs = step_pairs([-3000.0, 3.0], [3.0, -3000.0], dtype=torch.float32)
    values = loss(pairs, **params)
    values.sum().backward()
    for tensor in (values, pairs.chosen_logprobs.grad, pairs.rejected_logprobs.grad):
        assert torch.isfinite(tensor).all()


def test_every_one_names_its_paper_and_takes_its_own_defaults() -> None:
    known = all_algorithms()
    for loss in {loss for loss, _ in LOSSES}:
        algorithm = known[loss.__name__]
        assert algorithm.paper.startswith("arXiv:") and algorithm.summary and algorithm.lesson == "pairs"
        assert check_params(algorithm, {}) == algorithm.params


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("f_dpo", {"divergence": "kl"}),
        ("f_dpo", {"alpha": 1.5}),
        ("gpo", {"function": "linear"}),
        ("cal_dpo", {"beta": 0.0}),
        ("dr_dpo", {"beta_prime": 0.0}),
        ("chi_po", {"reward_bound": 0.0}),
        ("dpo_shift", {"rejected_weight": 1.1}),
        ("ropo", {"alpha": 1.0}),
        ("odpo", {"scaling": "exp"}),
        ("focal_po", {"gamma": -0.1}),
    ],
)
def test_parameters_outside_the_paper_are_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        check_params(all_algorithms()[name], params)


def test_value_and_gradient_are_those_of_trl_and_of_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from scripts.parity.contrib_b import rows

    seen = rows()
    assert {row.algorithm for row in seen} == {loss.__name__ for loss, _ in LOSSES}
    assert [row for row in seen if max(row.value_error, row.gradient_error) > 1e-6] == []
    assert all(row.cases >= 5 for row in seen)


# ---- f-DPO ----------------------------------------------------------------------------------------------------------


def test_f_dpo_with_the_reverse_kl_is_dpo() -> None:
    is_dpo(f_dpo, divergence="reverse_kl")


@pytest.mark.parametrize(
    ("params", "curvature"),  # f''(1)
    [
        ({"divergence": "reverse_kl"}, 1.0),
        ({"divergence": "forward_kl"}, 1.0),
        ({"divergence": "jensen_shannon"}, 0.5),
        ({"divergence": "alpha", "alpha": 0.3}, 1.0),
        ({"divergence": "alpha", "alpha": 0.9}, 1.0),
    ],
)
def test_every_f_divergence_has_the_gradient_of_dpo_at_the_reference_up_to_its_curvature(
    params: dict[str, Any], curvature: float
) -> None:
    value, chosen, rejected = one(f_dpo, 0.0, 0.0, beta=0.4, **params)
    assert value == pytest.approx(LN_2)
    assert (chosen, rejected) == pytest.approx((-0.2 * curvature, 0.2 * curvature))


@pytest.mark.parametrize(
    ("params", "reward_gap"),
    [  # pi / ref is 3 for the chosen and 1/2 for the rejected completion
        ({"divergence": "reverse_kl"}, math.log(6)),
        ({"divergence": "forward_kl"}, 5 / 3),  # -1/3 + 2
        ({"divergence": "jensen_shannon"}, math.log(9 / 4)),  # log 3/4 - log 1/3
        ({"divergence": "alpha", "alpha": 0.5}, 2 * (math.sqrt(2) - math.sqrt(1 / 3))),
    ],
)
def test_f_dpo_worked_by_hand(params: dict[str, Any], reward_gap: float) -> None:
    value, _, _ = one(f_dpo, math.log(3), -LN_2, beta=0.5, **params)
    assert value == pytest.approx(math.log(1 + math.exp(-0.5 * reward_gap)))


@given(chosen=RATIO, rejected=RATIO)
@settings(max_examples=50, deadline=None)
def test_the_alpha_divergence_runs_from_the_reverse_to_the_forward_kl(chosen: float, rejected: float) -> None:
    def alpha(value: float) -> tuple[float, float, float]:
        return one(f_dpo, chosen, rejected, divergence="alpha", alpha=value)

    assert alpha(0.0) == one(f_dpo, chosen, rejected, divergence="reverse_kl")
    assert alpha(1.0) == one(f_dpo, chosen, rejected, divergence="forward_kl")
    assert alpha(1e-7) == pytest.approx(alpha(0.0), rel=1e-4, abs=1e-5)


# ---- GPO ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "at_zero", "slope"),
    [
        ("logistic", LN_2, -0.5),
        ("hinge", 1.0, -1.0),
        ("squared", 1.0, -2.0),
        ("exponential", 1.0, -1.0),
        ("truncated_quadratic", 1.0, -2.0),
        ("savage", 0.25, -0.25),
    ],
)
def test_every_function_of_gpo_falls_at_zero_and_all_but_savage_are_convex(
    function: str, at_zero: float, slope: float
) -> None:
    assert one(gpo, 0.0, 0.0, beta=1.0, function=function) == pytest.approx((at_zero, slope, -slope))
    gaps = [step / 32 for step in range(-192, 193)]
    values = gpo(step_pairs(gaps, [0.0] * len(gaps)), beta=1.0, function=function).detach()
    is_convex = bool((values[2:] - 2 * values[1:-1] + values[:-2] >= -1e-12).all())
    assert is_convex == (function != "savage")


@pytest.mark.parametrize(
    ("function", "at_minus_1", "at_half", "at_3"),
    [
        ("logistic", math.log(1 + math.e), math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(-3))),
        ("hinge", 2.0, 0.5, 0.0),
        ("squared", 4.0, 0.25, 4.0),
        ("exponential", math.e, math.exp(-0.5), math.exp(-3)),
        ("truncated_quadratic", 4.0, 0.25, 0.0),
        ("savage", (1 + math.exp(-1)) ** -2, (1 + math.exp(0.5)) ** -2, (1 + math.exp(3)) ** -2),
    ],
)
def test_gpo_worked_by_hand(function: str, at_minus_1: float, at_half: float, at_3: float) -> None:
    values = gpo(step_pairs([-4.0, 2.0, 10.0], [0.0, 0.0, -2.0]), beta=0.25, function=function)
    assert values.tolist() == pytest.approx([at_minus_1, at_half, at_3])


def test_gpo_holds_dpo_and_the_hinge_and_ipo() -> None:
    is_dpo(gpo, function="logistic")
    pairs = step_pairs([-30.0, 0.0, 0.4, 7.0, 30.0], [1.0, 0.0, -0.2, -9.0, -30.0])
    assert torch.allclose(gpo(pairs, beta=0.1, function="hinge"), hinge_norm(pairs, beta=0.1))
    # (1 - beta gap)^2 = beta^2 (gap - 1 / beta)^2, and IPO's target is 1 / (2 beta).
    of_ipo = 0.1**2 * ipo(pairs, beta=0.05, length_normalized=False)
    assert torch.allclose(gpo(pairs, beta=0.1, function="squared"), of_ipo)


def test_savage_gives_up_on_pairs_far_on_the_wrong_side() -> None:
    slopes = [abs(one(gpo, gap, 0.0, beta=1.0, function="savage")[1]) for gap in (-0.7, -5.0, -20.0)]
    assert slopes[0] > slopes[1] > slopes[2] and slopes[2] < 1e-8


# ---- WPO ------------------------------------------------------------------------------------------------------------


def test_wpo_is_dpo_for_completions_that_the_policy_would_draw_for_certain() -> None:
    pairs = completions([0.0, 0.0], [0.0], chosen_ref=-1.0, rejected_ref=-2.5)
    assert torch.equal(wpo(pairs, beta=0.3), dpo(pairs, beta=0.3))


def test_wpo_weighs_by_the_probability_per_token_and_its_weights_have_no_gradient() -> None:
    # Probabilities 1/2 and 1/8: 1/4 per token; the rejected one 1/16.
    logprobs = [math.log(0.5), math.log(0.125)], [math.log(0.0625)]
    pairs, plain = completions(*logprobs), completions(*logprobs)
    wpo(pairs).sum().backward()
    dpo(plain).sum().backward()
    assert wpo(pairs).item() == pytest.approx(dpo(plain).item() / 64)
    assert torch.allclose(pairs.chosen_logprobs.grad, plain.chosen_logprobs.grad / 64)
    assert torch.allclose(pairs.rejected_logprobs.grad, plain.rejected_logprobs.grad / 64)


# ---- Cal-DPO --------------------------------------------------------------------------------------------------------


def test_cal_dpo_worked_by_hand() -> None:
    # beta 1/2: the targets are +1 and -1. -log sigmoid(2) + (2 - 1)^2 + (0 + 1)^2.
    value, chosen, rejected = one(cal_dpo, 2.0, 0.0, beta=0.5)
    assert value == pytest.approx(math.log(1 + math.exp(-2)) + 2)
    push = 1 / (1 + math.exp(2))
    assert (chosen, rejected) == pytest.approx((2 - push, 2 + push))
    assert one(cal_dpo, 2.0, 0.0, beta=0.5, calibration=0.5)[0] == pytest.approx(math.log(1 + math.exp(-2)) + 1)


def test_cal_dpo_rests_at_the_log_ratios_of_a_reward_of_one_half() -> None:
    value, chosen, rejected = one(cal_dpo, 50.0, -50.0, beta=0.01)
    assert (value, chosen, rejected) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    # DPO sees the same gap here, and does not mind that the chosen completion became less likely.
    assert one(dpo, -10.0, -110.0) == pytest.approx(one(dpo, 50.0, -50.0))
    assert one(cal_dpo, -10.0, -110.0, beta=0.01)[1] < -100


def test_cal_dpo_without_calibration_is_dpo_with_beta_one() -> None:
    is_dpo(cal_dpo, beta=1.0, calibration=0.0)


# ---- Dr. DPO --------------------------------------------------------------------------------------------------------


def test_dr_dpo_worked_by_hand() -> None:
    # sigmoid(gap) is 1/2 and 3/4: their mean is 5/8, their shares of it 2/5 and 3/5.
    pairs = step_pairs([0.0, math.log(3)], [0.0, 0.0])
    values = dr_dpo(pairs, beta=1.0)
    assert values.tolist() == pytest.approx([-math.log(5 / 8)] * 2)
    values.mean().backward()
    assert pairs.chosen_logprobs.grad[:, 1].tolist() == pytest.approx([-2 / 5 * 1 / 2, -3 / 5 * 1 / 4])


@given(st.lists(RATIO, min_size=2, max_size=6), st.floats(0.2, 20))
@settings(max_examples=50, deadline=None)
def test_dr_dpo_over_micro_batches_has_the_gradient_of_the_loss_of_the_step(gaps: list[float], beta: float) -> None:
    zeros = [0.0] * len(gaps)
    whole = step_pairs(gaps, zeros)
    loss = -beta * (torch.nn.functional.logsigmoid(0.5 * whole.gap) / beta).exp().mean().log()
    (expected,) = torch.autograd.grad(loss, whole.chosen_logprobs)
    for index, gap in enumerate(gaps):  # every pair a micro-batch of its own
        alone = replace(
            step_pairs([gap], [0.0]),
            index=torch.tensor([index]),
            step_chosen_logratio=whole.step_chosen_logratio,
            step_rejected_logratio=whole.step_rejected_logratio,
        )
        value = dr_dpo(alone, beta=0.5, beta_prime=beta)
        (gradient,) = torch.autograd.grad(value.sum() / len(gaps), alone.chosen_logprobs)
        assert value.item() == pytest.approx(loss.item(), rel=1e-9, abs=1e-12)
        assert torch.allclose(gradient[0], expected[index], rtol=1e-9, atol=1e-14)


def test_dr_dpo_weights_average_one_and_trust_the_pairs_that_the_policy_agrees_with() -> None:
    pairs, plain = step_pairs([-9.0, 0.0, 2.0, 30.0], [0.0] * 4), step_pairs([-9.0, 0.0, 2.0, 30.0], [0.0] * 4)
    dr_dpo(pairs).sum().backward()
    dpo(plain).sum().backward()
    weights = (pairs.chosen_logprobs.grad / plain.chosen_logprobs.grad)[:, 1]
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights.tolist() == sorted(weights.tolist()) and weights[0] < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dr_dpo_with_a_large_beta_prime_is_the_mean_of_dpo(dtype: torch.dtype) -> None:
    pairs = step_pairs([-9.0, 0.0, 2.0, 30.0], [0.0, 1.0, -4.0, 0.0], dtype=dtype)
    assert dr_dpo(pairs, beta_prime=1e7).tolist() == pytest.approx([dpo(pairs).mean().item()] * 4, rel=1e-6)
