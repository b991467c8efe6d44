"""DPO that believes a share of the labels to be the wrong way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm
from oxrl_core.algorithms.preference import FlipRate

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("cdpo", paper="Mitchell 2023, 'A note on DPO with noisy preferences'; compared in arXiv:2403.00409")
def cdpo(pairs: ReferencedPairs, *, beta: Positive = 0.1, label_smoothing: FlipRate = 0.1) -> Tensor:
    """-(1 - label_smoothing) log sigmoid(beta gap) - label_smoothing log sigmoid(-beta gap).

    gap = log-ratio of the chosen - log-ratio of the rejected completion. The cross-entropy to labels that are right
    with probability 1 - label_smoothing: it is least where sigmoid(beta gap) says just that, not at an infinite gap.
    """
    reward_gap = beta * pairs.gap
    return -(1 - label_smoothing) * log_sigmoid(reward_gap) - label_smoothing * log_sigmoid(-reward_gap)
