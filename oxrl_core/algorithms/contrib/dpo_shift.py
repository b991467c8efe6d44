"""DPO-Shift: DPO that pushes the rejected completion down a little less."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Fraction, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("dpo_shift", paper="arXiv:2502.07599, the loss of DPO-Shift")
def dpo_shift(pairs: ReferencedPairs, *, beta: Positive = 0.1, rejected_weight: Fraction = 0.95) -> Tensor:
    """-log sigmoid(beta (log-ratio of the chosen - rejected_weight times that of the rejected)).

    `rejected_weight` is the paper's f(lambda), held fixed: 1 is DPO; the smaller, the more the chosen completion gains
    in probability, at the cost of the gap.
    """
    return -log_sigmoid(beta * (pairs.chosen_logratio - rejected_weight * pairs.rejected_logratio))
