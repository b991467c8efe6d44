"""FocalPO: DPO that looks at the pairs which the policy already ranks right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("focal_po", paper="arXiv:2501.06645, the loss L_FocalPO")
def focal_po(pairs: ReferencedPairs, *, beta: Positive = 0.1, gamma: NonNegative = 0.05) -> Tensor:
    """-p^gamma log p, where p = sigmoid(beta gap).

    The focal loss the other way round: a pair far on the wrong side weighs less than in DPO (gamma 0). The gradient
    turns around where log p < -1 / gamma, at p < 2e-9 for the paper's 0.05, but at p < 0.6 for a gamma of 2.
    """
    log_probability = log_sigmoid(beta * pairs.gap)
    return -(gamma * log_probability).exp() * log_probability
