"""DiscoPOP: a loss that a language model proposed, between the logistic and the exponential one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("disco_pop", paper="arXiv:2406.08414, eq. 5 (log-ratio modulated loss)")
def disco_pop(pairs: ReferencedPairs, *, beta: Positive = 0.05, tau: Positive = 0.05) -> Tensor:
    """-(1 - s) log sigmoid(x) + s exp(-x), where x = beta gap and s = sigmoid(x / tau).

    gap = log-ratio of the chosen - log-ratio of the rejected completion; a small `tau` switches sharply from logistic
    (x < 0) to exponential (x > 0). Not convex: between the two the loss rises on a short stretch.
    """
    reward_gap = beta * pairs.gap
    switch = reward_gap / tau
    logistic = -(-switch).sigmoid() * log_sigmoid(reward_gap)
    # s exp(-x) as one exponential: apart, 0 x inf would make NaN of a very wrong pair.
    return logistic + (log_sigmoid(switch) - reward_gap).exp()
