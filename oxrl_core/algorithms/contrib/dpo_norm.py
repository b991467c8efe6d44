"""Length-normalized DPO, the loss of Tülu 3: the gap is one of log-ratios per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("dpo_norm", paper="arXiv:2411.15124, length-normalized DPO")
def dpo_norm(pairs: ReferencedPairs, *, beta: Positive = 5.0) -> Tensor:
    """-log sigmoid(beta (log-ratio per token of the chosen - log-ratio per token of the rejected)).

    A long completion cannot win by its length. `beta` is per token: the paper's 5 does what 0.1 does for DPO on
    completions of some 50 tokens.
    """
    chosen = pairs.chosen_logratio / pairs.chosen_length
    rejected = pairs.rejected_logratio / pairs.rejected_length
    return -log_sigmoid(beta * (chosen - rejected))
