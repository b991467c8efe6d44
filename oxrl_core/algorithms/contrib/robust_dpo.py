"""DPO whose expectation over randomly flipped labels is DPO on the true ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm
from oxrl_core.algorithms.preference import FlipRate

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("robust_dpo", paper="arXiv:2403.00409, section 3.1")
def robust_dpo(pairs: ReferencedPairs, *, beta: Positive = 0.1, label_smoothing: FlipRate = 0.1) -> Tensor:
    """((1 - e) l(beta gap) - e l(-beta gap)) / (1 - 2 e), where l(x) = -log sigmoid(x) and e = label_smoothing.

    gap = log-ratio of the chosen - log-ratio of the rejected completion. If each label is flipped with probability
    `label_smoothing`, the loss is on average that of DPO on the true labels (cDPO's is not). The price is variance,
    and values below 0.
    """
    reward_gap = beta * pairs.gap
    as_labeled, flipped = -log_sigmoid(reward_gap), -log_sigmoid(-reward_gap)
    return ((1 - label_smoothing) * as_labeled - label_smoothing * flipped) / (1 - 2 * label_smoothing)
