"""Self-play preference optimisation with hard labels: two regressions, one for each completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("sppo", paper="arXiv:2405.00675, eq. 4.7, with win probabilities 1 and 0")
def sppo(pairs: ReferencedPairs, *, beta: Positive = 1e-3) -> Tensor:
    """(c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2 of the log-ratios c of the chosen, r of the rejected completion.

    1 / beta is the paper's eta, 1000. Each log-ratio has a target of its own, eta (P - 1/2), where the gap alone would
    let both fall. In the paper the pairs are the policy's own, and the reference is the policy that drew them.
    """
    target = 0.5 / beta
    return (pairs.chosen_logratio - target) ** 2 + (pairs.rejected_logratio + target) ** 2
