"""DPO for a reward from which the length of the completion is taken off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("r_dpo", paper="arXiv:2403.19159, the DPO loss of reward - alpha |y|")
def r_dpo(pairs: ReferencedPairs, *, beta: Positive = 0.1, alpha: NonNegative = 0.01) -> Tensor:
    """-log sigmoid(beta gap + alpha (|chosen| - |rejected|)), lengths in tokens.

    gap = log-ratio of the chosen - log-ratio of the rejected completion. The policy that maximises reward - alpha |y|
    at a KL of weight beta has reward = beta log-ratio + alpha |y| + const(x), which the model of preferences turns into
    this loss: what a longer chosen completion owes to its length need not be learned. `alpha` is the price of a token
    in units of reward; it depends on the data, and the default is a small one.
    """
    return -log_sigmoid(beta * pairs.gap + alpha * (pairs.chosen_length - pairs.rejected_length))
