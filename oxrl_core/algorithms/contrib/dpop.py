"""DPO-Positive (Smaug): DPO that does not let the chosen completion lose likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("dpop", paper="arXiv:2402.13228, the DPOP loss")
def dpop(pairs: ReferencedPairs, *, beta: Positive = 0.3, penalty: NonNegative = 50.0) -> Tensor:
    """-log sigmoid(beta (gap - penalty x max(0, -c))), where c is the log-ratio of the chosen completion.

    gap = c - log-ratio of the rejected completion; `penalty` is the paper's lambda. Where c >= 0 it is DPO. Below, the
    completion that DPO would sacrifice for a wider gap costs more than the gap brings.
    """
    shortfall = (-pairs.chosen_logratio).relu()
    return -log_sigmoid(beta * (pairs.gap - penalty * shortfall))
