"""Sequence likelihood calibration: a hinge on the log-probs themselves, without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Pairs


@algorithm("slic", paper="arXiv:2305.10425, eq. 4, with the chosen completion as y_ref")
def slic(pairs: Pairs, *, delta: Positive = 1.0, nll_coef: NonNegative = 1.0) -> Tensor:
    """max(0, delta - chosen + rejected) - nll_coef chosen, of the log-probs of whole completions.

    `delta` is the margin by which the chosen completion must be likelier, `nll_coef` the paper's lambda: the likelihood
    keeps the model near text that is good, in place of a reference model. The paper trains with delta 1; lambda is
    to be tuned, from 0.1 to 10. A hinge on log-ratios is another loss: hinge_norm.
    """
    return (delta - pairs.chosen + pairs.rejected).relu() - nll_coef * pairs.chosen
