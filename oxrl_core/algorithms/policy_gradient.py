"""Losses over rollouts: one action per token, weighted by its advantage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import Fraction, NonNegative, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Rollouts


@algorithm("sgrpo", paper="arXiv:1707.06347, eq. 7, per token; advantages of arXiv:2402.03300")
def sgrpo(rollouts: Rollouts, *, clip_low: Fraction = 0.2, clip_high: NonNegative = 0.2) -> Tensor:
    """Clipped surrogate -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) of every token, without a critic.

    On the first update of a step the ratio is 1 and the gradient is that of REINFORCE; the value is then minus the mean
    advantage, so a loss near 0 is normal.
    """
    outside = ~rollouts.completion_mask
    # Prompt and padding columns may hold anything, and 0 x inf would carry a NaN into the gradient of the real ones.
    log_ratio = (rollouts.logprobs - rollouts.old_logprobs).masked_fill(outside, 0.0)
    advantages = rollouts.advantages.masked_fill(outside, 0.0)
    ratio = log_ratio.exp()
    return -(ratio * advantages).minimum(ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
