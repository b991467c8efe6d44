"""AlphaPO: SimPO with a reward that is not the logarithm of the likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Pairs


@algorithm("alpha_po", paper="arXiv:2501.03884, the loss; constants of its table 3 (Mistral)")
def alpha_po(pairs: Pairs, *, beta: Positive = 2.5, alpha: float = 0.25, gamma: NonNegative = 0.1) -> Tensor:
    """-log sigmoid(beta (reward of the chosen - reward of the rejected) - gamma), without a reference.

    The reward is (1 - p^-alpha) / alpha, where p is the likelihood per token, exp(log-prob / |y|). As alpha goes to 0
    it becomes log p, and the loss SimPO, whose `gamma` it has; above 0, alpha weighs unlikely completions more, below
    0 likely ones.
    """

    def reward(mean_logprob: Tensor) -> Tensor:
        return mean_logprob if alpha == 0 else -(-alpha * mean_logprob).expm1() / alpha

    return -log_sigmoid(beta * (reward(pairs.chosen_mean) - reward(pairs.rejected_mean)) - gamma)
