"""Anchored preference optimisation: it says of both completions whether they shall gain or lose likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("apo_zero", paper="arXiv:2408.06266, eq. 7")
def apo_zero(pairs: ReferencedPairs, *, beta: Positive = 0.1) -> Tensor:
    """1 - sigmoid(beta x log-ratio of the chosen) + sigmoid(beta x log-ratio of the rejected completion).

    It raises the chosen and lowers the rejected one: for chosen completions that are better than what the model says.
    """
    # 1 - sigmoid(x) = sigmoid(-x), which keeps its digits where x is large.
    return (-beta * pairs.chosen_logratio).sigmoid() + (beta * pairs.rejected_logratio).sigmoid()


@algorithm("apo_down", paper="arXiv:2408.06266, eq. 8")
def apo_down(pairs: ReferencedPairs, *, beta: Positive = 0.1) -> Tensor:
    """sigmoid(beta x log-ratio of the chosen completion) + 1 - sigmoid(beta gap).

    gap = log-ratio of the chosen - log-ratio of the rejected completion. It always lowers the rejected completion,
    and the chosen one while |its log-ratio| < |gap|: for chosen completions that are worse than what the model says.
    """
    return (beta * pairs.chosen_logratio).sigmoid() + (-beta * pairs.gap).sigmoid()
