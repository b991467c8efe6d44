"""Contrastive preference optimisation: DPO with a uniform reference, and the likelihood of the chosen completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Pairs


@algorithm("cpo", paper="arXiv:2401.08417, eq. 3 and its NLL term")
def cpo(pairs: Pairs, *, beta: Positive = 0.1, nll_coef: NonNegative = 1.0) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)) - nll_coef x chosen / |chosen|, without a reference.

    chosen and rejected are log-probs of whole completions. The paper writes the likelihood as a sum as well; its
    authors' code and TRL take it per token, and so does this. `nll_coef` is the weight of that term.
    """
    return -log_sigmoid(beta * (pairs.chosen - pairs.rejected)) - nll_coef * pairs.chosen_mean
