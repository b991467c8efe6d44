"""Functions that several losses need where the plain formula would overflow or lose its gradient. No torch import."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOG_2 = math.log(2.0)
NEAREST_TO_ZERO = -(2.0**-24)  # log-prob of the largest float32 probability below 1


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) of every element; its gradient is sigmoid(x), also at 0 and at +-1e4."""
    # relu(x) + log1p(exp(-|x|)) has the same value, but its gradient at exactly 0 (policy = reference) is not 1/2.
    return x.logaddexp(x.new_zeros(()))


def log_sigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x))) of every element; its gradient is sigmoid(-x), also at 0 and at +-1e4."""
    return -softplus(-x)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of every log-probability x <= 0, after Maechler 2012; finite also at x = 0.

    A log-prob of 0 stands for any probability that float32 rounds to 1: it counts as that of 1 - 2**-24 and has no
    gradient, where the formula says -inf and would make NaN of every gradient of its row.
    """
    x = x.clamp(max=NEAREST_TO_ZERO)
    is_near_zero = x > -LOG_2
    # Each branch sees only the elements it is right for: what `where` drops would still carry a NaN into the gradient.
    near = (-x.masked_fill(~is_near_zero, -1.0).expm1()).log()
    far = (-x.masked_fill(is_near_zero, -1.0).exp()).log1p()
    return near.where(is_near_zero, far)


def log_odds(logprobs: Tensor) -> Tensor:
    """log(p / (1 - p)) of every log p <= 0; finite also at p = 1."""
    return logprobs - log1mexp(logprobs)
