"""Noise contrastive alignment of a pair: also the absolute likelihood of the chosen completion counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("nca", paper="arXiv:2402.05369, section 4.1, the loss of two completions with preference labels")
def nca(pairs: ReferencedPairs, *, beta: Positive = 0.01) -> Tensor:
    """-log sigmoid(c) - 1/2 log sigmoid(-c) - 1/2 log sigmoid(-r), where c and r are beta x the log-ratios.

    c is that of the chosen and r that of the rejected completion; `beta` is the paper's alpha. Unlike DPO's, the loss
    is no function of c - r alone: it is least at c = log 2, so that the chosen completion does not lose likelihood.
    """
    chosen, rejected = beta * pairs.chosen_logratio, beta * pairs.rejected_logratio
    return -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected)
