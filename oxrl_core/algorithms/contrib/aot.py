"""Alignment by optimal transport: the distribution of chosen rewards shall dominate that of the rejected ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import StepPairs


@algorithm("aot", paper="arXiv:2406.05882, section 3, the unpaired variant with the logistic loss")
def aot(pairs: StepPairs, *, beta: Positive = 0.1) -> Tensor:
    """-log sigmoid(beta (c(k) - r(k))) of every rank k: c(k) and r(k) are the k-th smallest log-ratios of the step.

    c is that of the chosen, r that of the rejected completions.
    Ranks are those of the whole step, so it does not matter who was paired with whom. Value and gradient of a rank
    belong to two pairs: to that of its chosen and to that of its rejected completion, half of the value to each.
    """
    rank_of_chosen = pairs.step_chosen_logratio.argsort(stable=True).argsort()[pairs.index]
    rank_of_rejected = pairs.step_rejected_logratio.argsort(stable=True).argsort()[pairs.index]
    # The opposite number of each has no gradient here: it gets its own where its own pair is.
    opposite_of_chosen = pairs.step_rejected_logratio.sort().values[rank_of_chosen]
    opposite_of_rejected = pairs.step_chosen_logratio.sort().values[rank_of_rejected]
    values = -log_sigmoid(beta * (pairs.chosen_logratio - opposite_of_chosen))
    values = values - log_sigmoid(beta * (opposite_of_rejected - pairs.rejected_logratio))
    return values - values.detach() / 2
