"""Losses over whole distributions: a student learns from a teacher with the same vocabulary.

A vocabulary entry may be ruled out with a logit of -inf. Where both models rule it out it counts for nothing; where
only the one that is to cover the other does, the divergence is infinite, as it should be.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import Fraction, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Distributions


@algorithm("kd", paper="arXiv:1503.02531, section 2")
def kd(tokens: Distributions, *, alpha: Fraction = 0.5, temperature: Positive = 2.0) -> Tensor:
    """alpha cross-entropy + (1 - alpha) T^2 KL(teacher || student), the KL with both logits divided by T.

    The gradient of the KL shrinks with 1 / T^2, so the factor keeps the two terms in proportion at any `temperature`.
    """
    hard = -tokens.logits.log_softmax(-1).gather(-1, tokens.targets[:, None])[:, 0]
    student = (tokens.logits / temperature).log_softmax(-1)
    teacher = (tokens.teacher_logits / temperature).log_softmax(-1)
    soft = temperature**2 * kl(teacher, student)
    if alpha in (0, 1):  # the other term may be infinite, and 0 x inf is NaN
        return hard if alpha == 1 else soft
    return alpha * hard + (1 - alpha) * soft


@algorithm("gkd", paper="arXiv:2306.13649, eq. 1", lesson="mixed")
def gkd(tokens: Distributions, *, beta: Fraction = 0.5, temperature: Positive = 1.0) -> Tensor:
    """beta KL(teacher || M) + (1 - beta) KL(student || M), where M = beta teacher + (1 - beta) student.

    0 means KL(teacher || student), which covers all that the teacher may say; 1 means KL(student || teacher), which
    seeks what it says most. These ends, TRL's too, are no limits of the formula: that goes to 0 at both, like beta
    times the one and 1 - beta times the other, so a `beta` near an end wants a higher learning rate than the end
    itself. There is no factor T^2: with `temperature` the gradient shrinks.
    """
    student = (tokens.logits / temperature).log_softmax(-1)
    teacher = (tokens.teacher_logits / temperature).log_softmax(-1)
    if beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    # Where both are 0, the log of the mixture would make NaN of the gradient; `kl` looks at neither there.
    outside = student.isneginf() & teacher.isneginf()
    mixture = (teacher.masked_fill(outside, 0.0) + math.log(beta)).logaddexp(
        student.masked_fill(outside, 0.0) + math.log1p(-beta)
    )
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def kl(left: Tensor, right: Tensor) -> Tensor:
    """KL(left || right) of log-probs (N, V), as (N,); entries where left is 0 count for nothing."""
    # Filled before the product: 0 x inf is NaN, in the value and in the gradient.
    log_ratio = (left - right).masked_fill(left.isneginf(), 0.0)
    return (left.exp() * log_ratio).sum(-1)
