"""RPO (iterative reasoning preference optimization): DPO that also learns the chosen completion by heart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("rpo", paper="arXiv:2404.19733, eq. 1")
def rpo(pairs: ReferencedPairs, *, beta: Positive = 0.1, alpha: NonNegative = 1.0) -> Tensor:
    """-log sigmoid(beta gap) - alpha chosen / |chosen|: the second term is the negative log-likelihood per token.

    The mean is over the tokens of one completion, as in the paper; TRL's loss_type ["sigmoid", "sft"] takes it over
    the tokens of the whole batch, so that long completions weigh more there.
    """
    return -log_sigmoid(beta * pairs.gap) - alpha * pairs.chosen_mean
