"""Exact optimisation: the reverse KL to the preference labels, where DPO has the forward one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs

Smoothing = Annotated[float, Field(gt=0, lt=0.5)]  # at 0 the KL is infinite


@algorithm("exo", paper="arXiv:2402.00856, eq. 16")
def exo(pairs: ReferencedPairs, *, beta: Positive = 0.1, label_smoothing: Smoothing = 1e-3) -> Tensor:
    """KL(p || q) of p = sigmoid(beta gap), the policy's belief in the chosen completion, from q = 1 - label_smoothing.

    gap = log-ratio of the chosen - log-ratio of the rejected completion. KL(q || p), with p and q exchanged, is cDPO up
    to a constant: both are least where p = q, but this one seeks a mode instead of covering all.
    """
    log_chosen, log_rejected = log_sigmoid(beta * pairs.gap), log_sigmoid(-beta * pairs.gap)
    chosen = log_chosen.exp() * (log_chosen - math.log1p(-label_smoothing))
    rejected = log_rejected.exp() * (log_rejected - math.log(label_smoothing))
    return chosen + rejected
