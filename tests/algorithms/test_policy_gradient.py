"""The clipped surrogate against arithmetic by hand (arXiv:1707.06347, eq. 7 and figure 1) and what its papers claim."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oxrl_core.advantages import group_centered, leave_one_out
from oxrl_core.algorithms.base import all_algorithms, check_params, get_algorithm
from oxrl_core.algorithms.policy_gradient import dr_grpo, gspo, luspo, ppo, rloo, sgrpo
from oxrl_core.errors import ConfigError
from oxrl_core.types import Rollouts

NAMES = sorted(name for name, algorithm in all_algorithms().items() if algorithm.signals == "Rollouts")
SEQUENCE_LEVEL = [("gspo", {}), ("luspo", {}), ("rloo", {}), ("sgrpo", {"ratio": "sequence"})]
seeds = st.integers(0, 2**31)


def one_token(ratio: float, advantage: float) -> Rollouts:
    """One real token of the given ratio and advantage."""
    return Rollouts(
        logprobs=torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True),
        completion_mask=torch.tensor([[True]]),
        advantages=torch.tensor([[advantage]]),
        old_logprobs=torch.tensor([[-1.0]]),
    )


def crafted(seed: int, *, rows: int = 3, tokens: int = 7, drift: float = 0.4, share: float = 0.6) -> Rollouts:
    """Random completions with holes in the mask, float64, one advantage for each row."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((3, rows, tokens), generator=generator, dtype=torch.float64)
    mask = torch.rand((rows, tokens), generator=generator) < share
    mask[:, 0] = True
    old_logprobs = -noise[0].abs() - 0.1
    return Rollouts(
        logprobs=(old_logprobs + drift * noise[1]).requires_grad_(),
        completion_mask=mask,
        advantages=noise[2][:, :1].expand(rows, tokens),
        old_logprobs=old_logprobs,
    )


def value_and_gradient(
    loss: Callable[..., Tensor], rollouts: Rollouts, weights: Tensor | float = 1.0, **params: Any
) -> tuple[float, Tensor]:
    """The sum over trained tokens and its gradient in the log-probs."""
    values = (loss(rollouts, **params) * torch.ones_like(rollouts.logprobs))[rollouts.completion_mask]
    if isinstance(weights, Tensor):
        weights = weights.expand_as(rollouts.logprobs)[rollouts.completion_mask]
    total = (values * weights).sum()
    (gradient,) = torch.autograd.grad(total, rollouts.logprobs)
    return total.item(), gradient


def changed(rollouts: Rollouts, **fields: Any) -> Rollouts:
    return Rollouts(**{**vars(rollouts), **fields})


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # the policy already moved far enough: clipped at 1.2
        (0.5, 2.0, -1.0, -1.0),  # it moved the wrong way: not clipped, so that it can come back
        (1.5, -2.0, 3.0, 3.0),
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
        (1.5, 0.0, 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("name", ["sgrpo", "ppo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"])
def test_the_surrogate_and_its_gradient_worked_by_hand(
    name: str, ratio: float, advantage: float, value: float, gradient: float
) -> None:
    seen, slope = value_and_gradient(get_algorithm(name).loss, one_token(ratio, advantage))
    assert seen == pytest.approx(value, rel=1e-5, abs=1e-7)
    assert slope.item() == pytest.approx(gradient, rel=1e-5, abs=1e-7)


def test_the_bounds_are_set_apart() -> None:
    assert sgrpo(one_token(1.5, 1.0), clip_low=0.0, clip_high=0.28).item() == pytest.approx(-1.28)
    assert sgrpo(one_token(0.5, -1.0), clip_low=0.3, clip_high=0.0).item() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("name", "upper"), [("dapo", 1.28), ("ppo", 1.2), ("gspo", 1.0004), ("luspo", 1.0025), ("dr_grpo", 1.2)]
)
def test_the_defaults_are_the_bounds_of_the_paper(name: str, upper: float) -> None:
    assert get_algorithm(name).loss(one_token(2.0, 1.0)).item() == pytest.approx(-upper, rel=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (5.0, -1.0, 3.0, 0.0),  # a bad action that became five times as probable: bounded by 3 |A|
        (2.0, -1.0, 2.0, 2.0),  # below the bound
        (5.0, 1.0, -1.2, 0.0),  # good ones are clipped as ever
        (0.5, 1.0, -0.5, -0.5),
    ],
)
@pytest.mark.parametrize("params", [{"dual_clip": 3.0}, {"ratio_cap": 3.0}])
def test_two_papers_bound_a_bad_action_that_became_probable(
    params: dict[str, float], ratio: float, advantage: float, value: float, gradient: float
) -> None:
    seen, slope = value_and_gradient(sgrpo, one_token(ratio, advantage), **params)
    assert seen == pytest.approx(value, rel=1e-5)
    assert slope.item() == pytest.approx(gradient, rel=1e-5, abs=1e-7)


@given(seed=seeds, bound=st.floats(1.3, 10))
def test_dual_clip_and_ratio_cap_are_the_same_above_the_upper_clip(seed: int, bound: float) -> None:
    rollouts = crafted(seed, drift=2.0)
    one, its_gradient = value_and_gradient(sgrpo, rollouts, dual_clip=bound)
    other, other_gradient = value_and_gradient(sgrpo, rollouts, ratio_cap=bound)
    assert one == pytest.approx(other, rel=1e-12)
    assert torch.equal(its_gradient, other_gradient)


@pytest.mark.parametrize("name", NAMES)
def test_at_ratio_one_the_gradient_is_that_of_reinforce(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((4, 6, 11), generator=generator, dtype=torch.float64, requires_grad=True)
    actions = torch.randint(0, 11, (4, 6), generator=generator)
    advantages = torch.randn((4, 1), generator=generator, dtype=torch.float64).expand(4, 6)
    mask = torch.rand((4, 6), generator=generator) > 0.3
    lengths = mask.sum(1, keepdim=True).expand(4, 6)

    def gradient_of(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, logits)[0]

    logprobs = logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]
    reinforce = gradient_of(-(advantages * logprobs)[mask].sum())
    logprobs = logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]
    rollouts = Rollouts(
        logprobs=logprobs, completion_mask=mask, advantages=advantages, old_logprobs=logprobs.detach().clone()
    )
    values = get_algorithm(name).loss(rollouts)
    if name == "rloo":  # one action for each row, said on each of its tokens
        values = values / lengths
    assert torch.allclose(gradient_of(values[mask].sum()), reinforce, atol=1e-12)


def test_the_advantage_weighs_on_every_token_of_the_completion() -> None:
    rollouts = Rollouts(
        logprobs=torch.full((1, 4), -1.0, requires_grad=True),
        completion_mask=torch.tensor([[False, True, True, True]]),
        advantages=torch.tensor([[0.0, 0.5, 0.5, 0.5]]),
        old_logprobs=torch.full((1, 4), -1.0),
    )
    sgrpo(rollouts).sum().backward()
    assert rollouts.logprobs.grad is not None
    assert rollouts.logprobs.grad.tolist() == [[0.0, -0.5, -0.5, -0.5]]


# ---- ratios of a whole completion ------------------------------------------------------------------------------------


def two_tokens(gap: float, advantage: float = 1.0) -> Rollouts:
    """Log-ratios gap and 3 x gap on two tokens, with a masked one between them."""
    return Rollouts(
        logprobs=torch.tensor([[gap, 9.0, 3 * gap]], dtype=torch.float64, requires_grad=True),
        completion_mask=torch.tensor([[True, False, True]]),
        advantages=torch.full((1, 3), advantage, dtype=torch.float64),
        old_logprobs=torch.zeros(1, 3, dtype=torch.float64),
    )


def test_the_ratio_of_gspo_is_the_geometric_mean_over_the_unmasked_tokens() -> None:
    rollouts = two_tokens(0.1)
    values = gspo(rollouts, clip_high=1.0)
    assert values[rollouts.completion_mask].tolist() == pytest.approx([-math.exp(0.2)] * 2)
    # The mean over the row is the value of the row; each token has half of it: s / |y|.
    _, gradient = value_and_gradient(gspo, rollouts, weights=0.5, clip_high=1.0)
    assert gradient[0].tolist() == pytest.approx([-math.exp(0.2) / 2, 0.0, -math.exp(0.2) / 2])


def test_the_ratio_of_rloo_is_the_product_over_the_tokens() -> None:
    rollouts = two_tokens(0.03)
    assert rloo(rollouts)[rollouts.completion_mask].tolist() == pytest.approx([-math.exp(0.12)] * 2)
    _, gradient = value_and_gradient(rloo, rollouts, weights=0.5)
    assert gradient[0].tolist() == pytest.approx([-math.exp(0.12), 0.0, -math.exp(0.12)])
    _, clipped = value_and_gradient(rloo, two_tokens(0.1))
    assert clipped.tolist() == [[0.0, 0.0, 0.0]]


def test_gspo_clips_whole_completions() -> None:
    _, far = value_and_gradient(gspo, two_tokens(1e-3))
    _, near = value_and_gradient(gspo, two_tokens(1e-4))
    assert not far.any()
    assert near[0, [0, 2]].all()


@given(seed=seeds)
def test_gspo_of_one_token_completions_is_the_token_level_surrogate(seed: int) -> None:
    rollouts = crafted(seed, tokens=1)
    value, gradient = value_and_gradient(gspo, rollouts, clip_low=0.2, clip_high=0.2)
    expected, expected_gradient = value_and_gradient(sgrpo, rollouts)
    assert value == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(gradient, expected_gradient, atol=1e-12)


def test_summed_over_tokens_a_long_completion_has_as_much_gradient_per_token_as_a_short_one() -> None:
    mask = torch.tensor([[True, False, False, False], [True, True, True, True]])
    rollouts = Rollouts(
        logprobs=torch.full((2, 4), -1.0, requires_grad=True),
        completion_mask=mask,
        advantages=torch.ones(2, 4),
        old_logprobs=torch.full((2, 4), -1.0),
    )
    _, summed = value_and_gradient(luspo, rollouts)
    assert summed.tolist() == [[-1.0, 0.0, 0.0, 0.0], [-1.0] * 4]
    _, averaged = value_and_gradient(gspo, rollouts, weights=1 / mask.sum(1, keepdim=True))
    assert averaged.tolist() == [[-1.0, 0.0, 0.0, 0.0], [-0.25] * 4]


@pytest.mark.parametrize(("name", "params"), SEQUENCE_LEVEL)
@given(seed=seeds)
def test_a_completion_has_one_value_on_all_its_tokens(name: str, params: dict[str, Any], seed: int) -> None:
    rollouts = crafted(seed)
    values = get_algorithm(name).loss(rollouts, **params)
    for row, mask in zip(values, rollouts.completion_mask, strict=True):
        assert len(set(row[mask].tolist())) == 1


@given(seed=seeds, group=st.integers(2, 6))
def test_grpo_without_deviation_is_rloo_times_the_share_of_the_others(seed: int, group: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(group, generator=generator, dtype=torch.float64).tolist()
    rollouts = crafted(seed, rows=group, drift=0.0)

    def gradient(loss: Callable[..., Tensor], advantages: list[float], weights: Tensor | float = 1.0) -> Tensor:
        column = torch.tensor(advantages, dtype=torch.float64)[:, None]
        return value_and_gradient(loss, changed(rollouts, advantages=column.expand_as(rollouts.logprobs)), weights)[1]

    lengths = rollouts.completion_mask.sum(1, keepdim=True)
    whole = gradient(rloo, leave_one_out(rewards), weights=1 / lengths)
    centered = gradient(dr_grpo, group_centered(rewards))
    assert torch.allclose(centered, whole * (group - 1) / group, atol=1e-9)


# ---- what holds for every loss over rollouts -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(seed=seeds, left=st.integers(0, 3), right=st.integers(0, 3))
def test_padding_and_what_stands_in_it_change_nothing(name: str, seed: int, left: int, right: int) -> None:
    loss, rollouts = get_algorithm(name).loss, crafted(seed)
    value, gradient = value_and_gradient(loss, rollouts)

    def padded(tensor: Tensor, filler: float) -> Tensor:
        shape = len(tensor)
        sides = [torch.full((shape, width), filler).to(tensor.dtype) for width in (left, right)]
        return torch.cat([sides[0], tensor.detach(), sides[1]], dim=1)

    mask = padded(rollouts.completion_mask, 0.0).bool()
    longer = Rollouts(
        logprobs=padded(rollouts.logprobs, math.nan).masked_fill(~mask, math.nan).requires_grad_(),
        completion_mask=mask,
        advantages=padded(rollouts.advantages, math.inf).masked_fill(~mask, math.inf),
        old_logprobs=padded(rollouts.old_logprobs, -math.inf).masked_fill(~mask, -math.inf),
    )
    padded_value, padded_gradient = value_and_gradient(loss, longer)
    assert padded_value == pytest.approx(value, rel=1e-12)
    assert torch.allclose(padded_gradient[:, left : left + gradient.shape[1]], gradient, atol=1e-12)
    assert not padded_gradient[~mask].any()  # NaN would be true


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_tokens_has_finite_values_and_no_gradient(name: str) -> None:
    rollouts = changed(crafted(1), completion_mask=torch.zeros(3, 7, dtype=torch.bool))
    values = get_algorithm(name).loss(rollouts)
    (gradient,) = torch.autograd.grad(values.sum(), rollouts.logprobs)
    assert values.isfinite().all()
    assert not gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_equal_rewards_teach_nothing(name: str) -> None:
    rollouts = crafted(2)
    silent = changed(rollouts, advantages=torch.zeros_like(rollouts.advantages))
    value, gradient = value_and_gradient(get_algorithm(name).loss, silent)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gap", [200.0, -200.0, math.inf])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_that_would_overflow_stays_finite(name: str, gap: float, advantage: float) -> None:
    rollouts = Rollouts(
        logprobs=torch.full((2, 3), -1.0, requires_grad=True),
        completion_mask=torch.ones(2, 3, dtype=torch.bool),
        advantages=torch.full((2, 3), advantage),
        old_logprobs=torch.full((2, 3), -1.0 - gap),
    )
    value, gradient = value_and_gradient(get_algorithm(name).loss, rollouts)
    assert math.isfinite(value)
    assert gradient.isfinite().all()


def test_a_bad_action_beyond_the_clamp_has_a_bounded_value_and_no_gradient() -> None:
    rollouts = Rollouts(
        logprobs=torch.full((1, 1), -1.0, requires_grad=True),
        completion_mask=torch.tensor([[True]]),
        advantages=torch.tensor([[-1.0]]),
        old_logprobs=torch.full((1, 1), -31.0),
    )
    value, gradient = value_and_gradient(ppo, rollouts)
    assert value == pytest.approx(math.exp(20), rel=1e-5)
    assert gradient.item() == 0


# ---- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("sgrpo", {"clip_low": 1.5}),
        ("sgrpo", {"clip_high": -0.1}),
        ("sgrpo", {"ratio": "batch"}),
        ("sgrpo", {"dual_clip": 1.0}),
        ("sgrpo", {"ratio_cap": 0.2}),
        ("cispo", {"ratio_cap": 0.2}),
        ("cispo", {"ratio": "sequence_sum"}),
        ("sapo", {"positive_temperature": 0.0}),
    ],
)
def test_a_value_without_meaning_is_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(params))):
        check_params(get_algorithm(name), params)


def test_optional_bounds_can_be_set_and_left_out() -> None:
    algorithm = get_algorithm("sgrpo")
    assert check_params(algorithm, {})["dual_clip"] is None
    assert check_params(algorithm, {"dual_clip": 3.0, "ratio_cap": None})["dual_clip"] == 3.0
