"""MinorDPO: DPO that leaves the rejected completion alone once the reference finds it likelier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("minor_dpo", paper="arXiv:2408.09834, the loss L_MinorDPO")
def minor_dpo(pairs: ReferencedPairs, *, beta: Positive = 0.1) -> Tensor:
    """-log sigmoid(beta (log-ratio of the chosen - max(0, log-ratio of the rejected))).

    Where policy and reference are equal the gradient is DPO's: at a log-ratio of exactly 0 the rejected completion
    still counts, else the first step of a run would not see it.
    """
    return -log_sigmoid(beta * (pairs.chosen_logratio - pairs.rejected_logratio.clamp(min=0)))
