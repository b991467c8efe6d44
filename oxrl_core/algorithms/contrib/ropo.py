"""ROPO: DPO whose gradient is largest for undecided pairs, not for those far on the wrong side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import AboveOne, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("ropo", paper="arXiv:2404.04102, eq. 9")
def ropo(pairs: ReferencedPairs, *, beta: Positive = 0.1, alpha: AboveOne = 14.0) -> Tensor:
    """4 alpha / (1 + alpha)^2 (alpha sigmoid(-x) - log sigmoid(x)), where x = beta gap.

    sigmoid(-x) alone is robust to labels that were flipped at random, but learns nothing from a pair far on the wrong
    side; the other term is DPO's, which learns from it most. The factor makes the largest weight of a pair 1, as in
    DPO. This is the paper's loss; its filtering of noisy pairs and its rejection sampling are no part of it.
    """
    x = beta * pairs.gap
    return 4 * alpha / (1 + alpha) ** 2 * (alpha * (-x).sigmoid() - log_sigmoid(x))
