"""Cal-DPO: DPO whose log-ratios are held to the scale of a true reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("cal_dpo", paper="arXiv:2412.14516, the loss L_Cal-DPO")
def cal_dpo(pairs: ReferencedPairs, *, beta: Positive = 0.002, calibration: NonNegative = 1.0) -> Tensor:
    """-log sigmoid(gap) + calibration ((log-ratio of the chosen - 1 / (2 beta))^2 + (that of the rejected + ...)^2).

    The targets are those of rewards +1/2 and -1/2, so that the chosen completion cannot become less likely while its
    gap grows. beta stands in the targets alone. The paper's weight `calibration` is 1, its authors' code has 0.5; beta
    is that of their configuration for UltraFeedback, where completions are long: short ones want a larger one.
    """
    target = 1 / (2 * beta)
    distance = (pairs.chosen_logratio - target) ** 2 + (pairs.rejected_logratio + target) ** 2
    return -log_sigmoid(pairs.gap) + calibration * distance
