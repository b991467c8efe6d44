"""Losses over pairs against arithmetic by hand and what their papers promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oxrl_core.algorithms.base import check_params, get_algorithm
from oxrl_core.algorithms.preference import dpo, ipo, orpo, simpo
from oxrl_core.errors import ConfigError
from oxrl_core.types import ReferencedPairs

LOSSES = [dpo, ipo, simpo, orpo]
betas = st.floats(0.01, 5.0)
logprobs = st.lists(st.floats(-30.0, -0.01), min_size=1, max_size=6)
quick = settings(max_examples=60, deadline=None)


def pair(
    chosen: list[float], rejected: list[float], chosen_ref: float = 0.0, rejected_ref: float = 0.0
) -> ReferencedPairs:
    """One pair, in float64, so that what is compared is the formula; token-aligned with one prompt token."""
    width = 1 + max(len(chosen), len(rejected))

    def row(values: list[float]) -> Tensor:
        padded = [0.0, *values, *[0.0] * (width - 1 - len(values))]
        return torch.tensor([padded], dtype=torch.float64, requires_grad=True)

    def mask(values: list[float]) -> Tensor:
        return torch.tensor([[0 < column <= len(values) for column in range(width)]])

    return ReferencedPairs(
        chosen_logprobs=row(chosen),
        rejected_logprobs=row(rejected),
        chosen_mask=mask(chosen),
        rejected_mask=mask(rejected),
        margins=torch.zeros(1),
        chosen_ref=torch.tensor([chosen_ref], dtype=torch.float64),
        rejected_ref=torch.tensor([rejected_ref], dtype=torch.float64),
    )


def pair_with_gap(gap: float) -> ReferencedPairs:
    return pair([-1.0 + gap], [-2.0], -1.0, -2.0)


def swapped(pairs: ReferencedPairs) -> ReferencedPairs:
    return ReferencedPairs(
        chosen_logprobs=pairs.rejected_logprobs.detach().clone().requires_grad_(),
        rejected_logprobs=pairs.chosen_logprobs.detach().clone().requires_grad_(),
        chosen_mask=pairs.rejected_mask,
        rejected_mask=pairs.chosen_mask,
        margins=pairs.margins,
        chosen_ref=pairs.rejected_ref,
        rejected_ref=pairs.chosen_ref,
    )


def gradients(loss: Callable[..., Tensor], pairs: ReferencedPairs, **params: Any) -> tuple[Tensor, Tensor]:
    """The gradients at the log-probs of the chosen and of the rejected tokens."""
    return torch.autograd.grad(loss(pairs, **params).sum(), (pairs.chosen_logprobs, pairs.rejected_logprobs))


# ---- dpo


@quick
@given(logprobs, logprobs, betas)
def test_dpo_is_log_two_where_the_policy_is_its_reference(chosen, rejected, beta) -> None:
    pairs = pair(chosen, rejected, sum(chosen), sum(rejected))
    assert dpo(pairs, beta=beta).item() == pytest.approx(math.log(2), abs=1e-6)
    up, down = gradients(dpo, pairs, beta=beta)
    assert up[0, 1].item() == pytest.approx(-beta / 2, rel=1e-6)
    assert down[0, 1].item() == pytest.approx(beta / 2, rel=1e-6)


def test_dpo_worked_by_hand() -> None:
    # log-ratios 2 and -1, so the gap is 3; at beta log(2) / 3 the odds of the pair are 2 to 1.
    pairs = pair([-1.0, -2.0], [-4.0], chosen_ref=-5.0, rejected_ref=-3.0)
    assert dpo(pairs, beta=math.log(2) / 3).item() == pytest.approx(math.log(1.5))
    up, down = gradients(dpo, pairs, beta=math.log(2) / 3)
    assert up[0, 1:].tolist() == pytest.approx([-math.log(2) / 9] * 2)
    assert down[0, 1].item() == pytest.approx(math.log(2) / 9)


@quick
@given(logprobs, logprobs, st.floats(-50, 0), st.floats(-50, 0), betas)
def test_swapping_chosen_and_rejected_mirrors_dpo(chosen, rejected, chosen_ref, rejected_ref, beta) -> None:
    """-log sigmoid(x) + log sigmoid(-x) = -x: the two losses differ by beta gap, their slopes by beta."""
    pairs = pair(chosen, rejected, chosen_ref, rejected_ref)
    other = swapped(pairs)
    difference = dpo(pairs, beta=beta) - dpo(other, beta=beta)
    assert difference.item() == pytest.approx(-beta * pairs.gap.item(), rel=1e-6, abs=1e-6)
    up, down = gradients(dpo, pairs, beta=beta)
    other_up, other_down = gradients(dpo, other, beta=beta)
    assert up[0, 1].item() == pytest.approx(-down[0, 1].item())  # as much up as down
    assert (up[0, 1] - other_down[0, 1]).item() == pytest.approx(-beta, rel=1e-6)
    assert (down[0, 1] - other_up[0, 1]).item() == pytest.approx(beta, rel=1e-6)


@pytest.mark.parametrize("flipped", [0.1, 0.3])
def test_smoothed_dpo_stops_where_the_odds_are_those_of_the_labels(flipped: float) -> None:
    stop = math.log((1 - flipped) / flipped) / 0.1
    assert gradients(dpo, pair_with_gap(stop), label_smoothing=flipped)[0].abs().max() < 1e-12
    assert gradients(dpo, pair_with_gap(stop - 1), label_smoothing=flipped)[0][0, 1] < 0
    assert gradients(dpo, pair_with_gap(stop + 1), label_smoothing=flipped)[0][0, 1] > 0
    # Half the labels wrong would be no labels: refused where the configuration is read.
    with pytest.raises(ConfigError, match="label_smoothing"):
        check_params(get_algorithm("dpo"), {"label_smoothing": 0.5})


# ---- ipo


@quick
@given(betas, st.integers(1, 6), st.integers(1, 6))
def test_ipo_has_its_minimum_at_a_gap_of_half_of_one_over_beta(beta, chosen_length, rejected_length) -> None:
    target = 1 / (2 * beta)
    whole = pair([-1.0] * chosen_length, [-2.0] * rejected_length)
    gap = -1.0 * chosen_length + 2.0 * rejected_length
    whole.chosen_ref.fill_(gap - target)  # the log-ratio of the whole completion falls by it
    assert ipo(whole, beta=beta, length_normalized=False).item() == pytest.approx(0.0, abs=1e-9)
    assert gradients(ipo, whole, beta=beta, length_normalized=False)[0].abs().max() < 1e-6

    per_token = pair([-1.0] * chosen_length, [-2.0] * rejected_length)
    per_token.chosen_ref.fill_(chosen_length * (-1.0 + 2.0 - target))
    assert ipo(per_token, beta=beta).item() == pytest.approx(0.0, abs=1e-9)
    assert gradients(ipo, per_token, beta=beta)[0].abs().max() < 1e-6


def test_ipo_worked_by_hand() -> None:
    # log-ratios 4 over 2 tokens and -3 over 1: 2 and -3 per token, gap 5 per token or 7 in all; 1 / (2 beta) = 1.
    pairs = pair([-1.0, -2.0], [-4.0], chosen_ref=-7.0, rejected_ref=-1.0)
    assert ipo(pairs, beta=0.5).item() == pytest.approx(16.0)
    assert ipo(pairs, beta=0.5, length_normalized=False).item() == pytest.approx(36.0)
    assert gradients(ipo, pairs, beta=0.5)[0][0].tolist() == pytest.approx([4.0] * 3)  # 2 (5 - 1) / 2 tokens
    assert gradients(ipo, pairs, beta=0.5)[1][0, 1].item() == pytest.approx(-8.0)


def test_ipo_pulls_a_gap_back_that_went_too_far_where_dpo_pushes_on() -> None:
    too_far = pair_with_gap(20.0)
    assert gradients(ipo, too_far, beta=0.1)[0][0, 1] > 0
    assert gradients(dpo, too_far, beta=0.1)[0][0, 1] < 0


# ---- simpo


def test_simpo_worked_by_hand() -> None:
    # Means -2 and -3: beta 2 and gamma 1 leave 2 x 1 - 1 = 1.
    pairs = pair([-1.0, -3.0], [-3.0])
    assert simpo(pairs).item() == pytest.approx(math.log1p(math.exp(-1.0)))
    up, down = gradients(simpo, pairs)
    pull = 2 / (1 + math.e)
    assert up[0, 1].item() == pytest.approx(-pull / 2)
    assert down[0, 1].item() == pytest.approx(pull)


@quick
@given(st.lists(st.tuples(st.floats(-20, -0.01), st.floats(-20, -0.01)), min_size=1, max_size=6), betas)
def test_simpo_without_margin_is_dpo_without_reference_where_lengths_are_equal(tokens, beta) -> None:
    """With beta / length for beta, which is TRL's CPO loss "sigmoid" too."""
    pairs = pair([chosen for chosen, _ in tokens], [rejected for _, rejected in tokens])
    per_length = beta / len(tokens)
    assert simpo(pairs, beta=beta, gamma=0.0).item() == pytest.approx(dpo(pairs, beta=per_length).item(), rel=1e-9)
    for mine, theirs in zip(
        gradients(simpo, pairs, beta=beta, gamma=0.0), gradients(dpo, pairs, beta=per_length), strict=True
    ):
        assert mine[0, 1].item() == pytest.approx(theirs[0, 1].item(), rel=1e-9)


@quick
@given(logprobs, betas, st.floats(0, 5))
def test_simpo_does_not_reward_length(chosen, beta, gamma) -> None:
    once, twice = pair(chosen, [-1.0]), pair([*chosen, *chosen], [-1.0])
    assert simpo(twice, beta=beta, gamma=gamma).item() == pytest.approx(simpo(once, beta=beta, gamma=gamma).item())


# ---- orpo


def test_orpo_worked_by_hand() -> None:
    # Probabilities per token 1/2 and 1/4: odds 1 and 1/3, so the ratio is 3 and sigmoid(log 3) = 3/4.
    pairs = pair([math.log(0.5)] * 3, [math.log(0.25)] * 2)
    assert orpo(pairs).item() == pytest.approx(math.log(2) + 0.1 * math.log(4 / 3))
    # d(log odds) / d(log p) = 1 / (1 - p) = 2 and 4/3; sigmoid(-log 3) = 1/4; shared by the tokens.
    up, down = gradients(orpo, pairs, beta=1.0)
    assert up[0, 1].item() == pytest.approx(-(1 + 2 / 4) / 3)
    assert down[0, 1].item() == pytest.approx((4 / 3) / 4 / 2)


@quick
@given(logprobs, logprobs)
def test_orpo_without_its_odds_is_the_likelihood_of_the_chosen_completion(chosen, rejected) -> None:
    assert orpo(pair(chosen, rejected), beta=0.0).item() == pytest.approx(-sum(chosen) / len(chosen))
    up, down = gradients(orpo, pair(chosen, rejected), beta=0.5)
    assert up[0, 1] < 0 <= down[0, 1]


# ---- all of them


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_gap_is_too_large(loss: Callable[..., Tensor], size: float, sign: int) -> None:
    pairs = pair([-size] * 2, [-0.001]) if sign > 0 else pair([-0.001], [-size] * 2)
    value = loss(pairs)
    assert torch.isfinite(value).all()
    for gradient in gradients(loss, pairs):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("chosen", [[], [0.0], [0.0, 0.0]])
@pytest.mark.parametrize("rejected", [[], [0.0], [-1.0]])
def test_empty_completions_and_certain_tokens_make_no_nan(
    loss: Callable[..., Tensor], chosen: list[float], rejected: list[float]
) -> None:
    pairs = pair(chosen, rejected)
    assert torch.isfinite(loss(pairs)).all()
    for gradient in gradients(loss, pairs):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_pairs_do_not_see_each_other_nor_their_padding(loss: Callable[..., Tensor]) -> None:
    first, second = pair([-1.0, -0.5], [-2.0], -2.0, -1.0), pair([-0.25], [-0.125, -3.0], -1.5, -2.5)
    fields = ("chosen_logprobs", "rejected_logprobs", "chosen_mask", "rejected_mask")

    def wider(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, torch.zeros((1, 4), dtype=tensor.dtype)], dim=1)

    both = ReferencedPairs(
        **{
            name: torch.cat([wider(getattr(first, name).detach()), wider(getattr(second, name).detach())])
            for name in fields
        },
        margins=torch.zeros(2),
        chosen_ref=torch.cat([first.chosen_ref, second.chosen_ref]),
        rejected_ref=torch.cat([first.rejected_ref, second.rejected_ref]),
    )
    assert loss(both).shape == (2,)
    assert loss(both).tolist() == pytest.approx([loss(first).item(), loss(second).item()], rel=1e-12)


def test_what_each_needs_stands_in_its_signature() -> None:
    assert [(get_algorithm(name).signals, get_algorithm(name).lesson) for name in ("dpo", "ipo", "simpo", "orpo")] == [
        ("ReferencedPairs", "pairs"),
        ("ReferencedPairs", "pairs"),
        ("Pairs", "pairs"),
        ("Pairs", "pairs"),
    ]
