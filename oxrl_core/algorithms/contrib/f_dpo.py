"""f-DPO: DPO whose distance to the reference is another f-divergence than the reverse KL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Fraction, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]
LARGEST_EXPONENT = 80.0  # exp(88) is the end of float32; beyond it a gradient is 0 instead of inf


@algorithm("f_dpo", paper="arXiv:2309.16240, theorem 1 and table 1")
def f_dpo(
    pairs: ReferencedPairs, *, beta: Positive = 0.1, divergence: Divergence = "jensen_shannon", alpha: Fraction = 0.5
) -> Tensor:
    """-log sigmoid(beta (f'(u of the chosen) - f'(u of the rejected))), where u = pi / ref of the whole completion.

    f'(u) up to a constant: log u (reverse_kl: DPO itself), -1 / u (forward_kl), log(u / (1 + u)) (jensen_shannon),
    (1 - u^-alpha) / alpha (alpha: 0 is the reverse, 1 the forward KL; TRL's coefficient is 1 - alpha). The further
    from the reverse KL, the more of the reference's modes the policy keeps.
    """
    chosen = derivative(pairs.chosen_logratio, divergence, alpha)
    rejected = derivative(pairs.rejected_logratio, divergence, alpha)
    return -log_sigmoid(beta * (chosen - rejected))


def derivative(logratio: Tensor, divergence: Divergence, alpha: float) -> Tensor:
    """f'(u) for u = exp(logratio), up to a constant that the difference of two completions does not see."""
    if divergence == "jensen_shannon":
        return log_sigmoid(logratio)
    order = {"reverse_kl": 0.0, "forward_kl": 1.0, "alpha": alpha}[divergence]
    if order == 0:
        return logratio
    return -(-order * logratio).clamp(max=LARGEST_EXPONENT).expm1() / order
