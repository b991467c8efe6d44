"""GPO: the family of losses of the reward gap, each a loss of binary classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from oxrl_core.algorithms.arithmetic import softplus
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs

LARGEST_EXPONENT = 80.0  # exp(88) is the end of float32; beyond it a gradient is 0 instead of inf


@algorithm("gpo", paper="arXiv:2402.05749, table 1")
def gpo(
    pairs: ReferencedPairs,
    *,
    beta: Positive = 0.1,
    function: Literal["logistic", "hinge", "squared", "exponential", "truncated_quadratic", "savage"] = "logistic",
) -> Tensor:
    """f(x) of the reward gap x = beta gap, for a function f that falls at 0.

    logistic: log(1 + e^-x), DPO. hinge: max(0, 1 - x), SLiC. squared: (1 - x)^2, IPO over whole completions with the
    target gap 1 / beta. exponential: e^-x. truncated_quadratic: max(0, 1 - x)^2. savage: 1 / (1 + e^x)^2, the only one
    that is not convex: it gives up on pairs that are far on the wrong side. Their tails decide how hard the policy is
    held to the reference; beta does not mean the same to two of them.
    """
    x = beta * pairs.gap
    if function == "logistic":
        return softplus(-x)
    if function == "exponential":
        return (-x).clamp(max=LARGEST_EXPONENT).exp()
    if function == "savage":
        return (-x).sigmoid() ** 2
    missing = 1 - x
    if function == "squared":
        return missing**2
    return missing.clamp(min=0) if function == "hinge" else missing.clamp(min=0) ** 2
