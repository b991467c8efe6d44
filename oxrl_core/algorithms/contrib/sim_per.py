"""SimPER: the inverse perplexity of the chosen against that of the rejected completion, and nothing to tune."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Pairs


@algorithm("sim_per", paper="arXiv:2502.00883, the loss L_SimPER")
def sim_per(pairs: Pairs) -> Tensor:
    """exp(rejected / |rejected|) - exp(chosen / |chosen|), without a reference; it lies between -1 and 1."""
    return pairs.rejected_mean.exp() - pairs.chosen_mean.exp()
