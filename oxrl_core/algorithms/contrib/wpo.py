"""WPO: DPO whose pairs count as much as the policy itself would have drawn them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("wpo", paper="arXiv:2406.11827, eq. 2")
def wpo(pairs: ReferencedPairs, *, beta: Positive = 0.1) -> Tensor:
    """-w(chosen) w(rejected) log sigmoid(beta gap), where w = exp(log-prob per token), without gradient.

    Pairs that another model wrote weigh less the less likely the policy finds them. This is the weight of eq. 2; the
    paper's aligned weights divide every token's probability by what the policy expects of it, which takes the whole
    distribution at each token (TRL's use_weighting does).
    """
    weights = (pairs.chosen_mean + pairs.rejected_mean).detach().exp().clamp(max=1)
    return -weights * log_sigmoid(beta * pairs.gap)
