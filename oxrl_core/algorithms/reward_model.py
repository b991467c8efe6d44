"""Losses that train a reward model on pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ScoredPairs


@algorithm(
    "rm",
    paper="arXiv:2203.02155, eq. 1 (Bradley-Terry); margin: arXiv:2307.09288, eq. 2; centering: arXiv:2312.09244",
)
def rm(pairs: ScoredPairs, *, use_margin: bool = True, centering: NonNegative = 0.0) -> Tensor:
    """-log sigmoid(score of the chosen - score of the rejected - margin) + centering (sum of both scores)^2.

    A margin is 0 where the data has none. Pairs fix scores up to a constant only, which cancels in every advantage
    that compares completions of one prompt: hence no centering by default. Set 0.01 (the paper's) where the scores
    themselves count, as beside a penalty or in PPO.
    """
    gap = pairs.chosen_score - pairs.rejected_score
    if use_margin:
        gap = gap - pairs.margins
    return centering * (pairs.chosen_score + pairs.rejected_score) ** 2 - log_sigmoid(gap)
