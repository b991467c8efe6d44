"""ODPO: DPO that asks for a larger gap where the chosen completion is much better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs

SMALLEST_MARGIN = 1e-30


@algorithm("odpo", paper="arXiv:2402.10571, the loss L_ODPO")
def odpo(
    pairs: ReferencedPairs,
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 1.0,
    scaling: Literal["linear", "log"] = "linear",
) -> Tensor:
    """-log sigmoid(beta gap - alpha f(margin)), where the margin is the score of the chosen minus that of the rejected.

    The paper allows every increasing f and runs its experiments with "log": then a margin below 1 asks for less than
    DPO does, and a pair without a margin for nothing at all, so it teaches nothing. With "linear" such a pair is
    DPO's.
    """
    offset = pairs.margins if scaling == "linear" else pairs.margins.clamp(min=SMALLEST_MARGIN).log()
    return -log_sigmoid(beta * pairs.gap - alpha * offset)
