"""The hinge of RSO: SLiC's, on log-ratios to a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("hinge_norm", paper="arXiv:2309.06657, the loss 'hinge-norm'")
def hinge_norm(pairs: ReferencedPairs, *, beta: Positive = 0.1) -> Tensor:
    """max(0, 1 - beta gap), where gap = log-ratio of the chosen - log-ratio of the rejected completion.

    A pair whose gap has reached 1 / beta teaches nothing more. It is what TRL calls "hinge"; `beta` is as in DPO.
    """
    return (1 - beta * pairs.gap).relu()
