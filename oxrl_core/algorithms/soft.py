"""Policy gradients without the clipped surrogate: every token keeps a gradient, with a bounded weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from oxrl_core.algorithms.base import AtLeastOne, Fraction, NonNegative, Positive, algorithm
from oxrl_core.algorithms.policy_gradient import masked_advantages, policy_log_ratio

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Rollouts

LOWEST_LOG_PRODUCT = math.log(1e-8)  # as in the authors' code; the weight is about 1e-15 there


@algorithm("cispo", paper="arXiv:2506.13585, eq. 4 and 5; cap of arXiv:2510.13786")
def cispo(
    rollouts: Rollouts,
    *,
    ratio_cap: AtLeastOne = 5.0,
    ratio_floor: Fraction = 0.0,
    ratio: Literal["token", "sequence"] = "token",
) -> Tensor:
    """-min(ratio, ratio_cap) A logprob with the ratio as a constant weight: a capped token still has its gradient.

    `ratio_cap` is absolute (1 + epsilon_high of the paper): below 1 it would shrink every gradient. `ratio_floor` is
    1 - epsilon_low, 0 (off) as in the paper.
    """
    weight = policy_log_ratio(rollouts, ratio).detach().exp().clamp(ratio_floor, ratio_cap)
    return -weight * masked_advantages(rollouts) * _masked_logprobs(rollouts)


@algorithm("sapo", paper="arXiv:2511.20347")
def sapo(
    rollouts: Rollouts,
    *,
    positive_temperature: Positive = 1.0,
    negative_temperature: Positive = 1.05,
) -> Tensor:
    """-4 / tau sigmoid(tau (ratio - 1)) A: the gradient is that of REINFORCE at ratio 1 and fades smoothly beside it.

    tau is `positive_temperature` where A > 0, else `negative_temperature`; a higher one fades faster.
    """
    advantages = masked_advantages(rollouts)
    away = policy_log_ratio(rollouts).exp() - 1
    # 1 - sigmoid(-x): far from 1 the gradient of sigmoid(x) itself is lost in the rounding of 1 - 0.9999999.
    positive = (1 - (-positive_temperature * away).sigmoid()) * (4 / positive_temperature)
    negative = (1 - (-negative_temperature * away).sigmoid()) * (4 / negative_temperature)
    return -positive.where(advantages > 0, negative) * advantages


@algorithm("vespo", paper="arXiv:2602.10693, gamma weights of whole completions")
def vespo(
    rollouts: Rollouts,
    *,
    positive_power: NonNegative = 2.0,
    positive_decay: Positive = 3.0,
    negative_power: NonNegative = 3.0,
    negative_decay: Positive = 2.0,
) -> Tensor:
    """-w^k e^(lambda (1 - w)) A logprob with w the product of the completion's ratios, as a constant weight.

    The weight is 1 on-policy and falls on both sides: k (`power`) says how fast for w < 1, lambda (`decay`) for w > 1;
    of their own where A >= 0 and where A < 0.
    """
    advantages = masked_advantages(rollouts)
    log_product = policy_log_ratio(rollouts, "sequence_sum").detach().clamp(min=LOWEST_LOG_PRODUCT)
    excess = 1 - log_product.exp()
    positive = (positive_power * log_product + positive_decay * excess).exp()
    negative = (negative_power * log_product + negative_decay * excess).exp()
    return -positive.where(advantages >= 0, negative) * advantages * _masked_logprobs(rollouts)


def _masked_logprobs(rollouts: Rollouts) -> Tensor:
    """(B, T) log-probs with gradient, 0 outside the mask."""
    return rollouts.logprobs.masked_fill(~rollouts.completion_mask, 0.0)
