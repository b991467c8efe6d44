"""chi-PO: DPO with a chi-squared divergence beside the KL, against overoptimization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs

EXPONENTS = (-88.0, 20.0)  # the paper's own bounds: exp stays finite, and one pair does not drown the others


@algorithm("chi_po", paper="arXiv:2407.13399, algorithm 1; alpha, gamma and the bounds of exp: its appendix")
def chi_po(
    pairs: ReferencedPairs,
    *,
    beta: Positive = 0.05,
    alpha: Positive = 1.0,
    gamma: NonNegative = 1.0,
    reward_bound: Positive | None = None,
) -> Tensor:
    """-log sigmoid(beta (phi(u of the chosen) - phi(u of the rejected))), phi(u) = u^alpha + gamma log u, u = pi / ref.

    With the defaults phi(u) = u + log u, the link of KL + chi-squared: the reward of a completion grows as fast as its
    ratio, so that the policy stays where the data are. With `reward_bound` (R_max: rewards lie in [0, R_max]) the
    reward gap is clipped to +-2 R_max, beyond which a pair has no gradient, as in algorithm 1.
    """
    chosen = (alpha * pairs.chosen_logratio).clamp(*EXPONENTS).exp()
    rejected = (alpha * pairs.rejected_logratio).clamp(*EXPONENTS).exp()
    reward_gap = beta * (chosen - rejected + gamma * pairs.gap)
    if reward_bound is not None:
        reward_gap = reward_gap.clamp(-2 * reward_bound, 2 * reward_bound)
    return -log_sigmoid(reward_gap)
