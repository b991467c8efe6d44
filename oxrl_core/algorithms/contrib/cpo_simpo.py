"""CPO-SimPO: SimPO's preference term and CPO's likelihood term."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Pairs


@algorithm("cpo_simpo", paper="arXiv:2401.08417, eq. 3, and arXiv:2405.14734, eq. 6; joined by CPO's authors")
def cpo_simpo(pairs: Pairs, *, beta: Positive = 10.0, gamma: NonNegative = 5.4, nll_coef: NonNegative = 0.05) -> Tensor:
    """-log sigmoid(beta (c - r) - gamma) - nll_coef c of the log-probs per token, without a reference.

    c is that of the chosen, r that of the rejected completion; `gamma` is as in simpo, `nll_coef` the weight of
    the likelihood. The defaults are those of the authors' Llama-3 model.
    """
    chosen, rejected = pairs.chosen_mean, pairs.rejected_mean
    return -log_sigmoid(beta * (chosen - rejected) - gamma) - nll_coef * chosen
