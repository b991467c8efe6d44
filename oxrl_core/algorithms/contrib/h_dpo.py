"""H-DPO: DPO that says how much entropy the policy keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("h_dpo", paper="arXiv:2411.07595, the loss L_H-DPO")
def h_dpo(pairs: ReferencedPairs, *, beta: Positive = 0.1, alpha: Positive = 0.95) -> Tensor:
    """-log sigmoid(beta ((alpha chosen - chosen under the reference) - (alpha rejected - rejected under it))).

    The reverse KL is cross-entropy minus entropy; here the entropy counts alpha times, so that the best policy is
    proportional to (ref exp(reward / beta))^(1 / alpha): below 1 sharper than DPO's, above 1 flatter.
    """
    chosen = alpha * pairs.chosen - pairs.chosen_ref
    rejected = alpha * pairs.rejected - pairs.rejected_ref
    return -log_sigmoid(beta * (chosen - rejected))
