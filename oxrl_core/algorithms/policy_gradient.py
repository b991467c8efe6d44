"""The clipped surrogate and the algorithms that are one by name: they differ in constants and in what is the action.

Each function returns one value per token. How those are averaged (algorithm.aggregation), where the advantage comes
from and whether a KL counts are switches of the configuration; a preset sets them as the paper has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from oxrl_core.algorithms.base import AboveOne, AtLeastOne, Fraction, NonNegative, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Rollouts

Level = Literal["token", "sequence", "sequence_sum"]

MAX_LOG_RATIO = 20.0


def policy_log_ratio(rollouts: Rollouts, level: Level = "token") -> Tensor:
    """log pi - log pi_old: of each token (B, T), or for each row (B, 1) the mean ("sequence") or sum of its tokens.

    Kept within +-20, as verl does, so that its exponential is finite: a token, or a row, beyond that counts with the
    bound and has no gradient. Only the tokens of the mask count, also in the length.
    """
    # Prompt and padding columns may hold anything, and 0 x inf would carry a NaN into the gradient of the real ones.
    log_ratio = (rollouts.logprobs - rollouts.old_logprobs).masked_fill(~rollouts.completion_mask, 0.0)
    if level != "token":
        log_ratio = log_ratio.sum(1, keepdim=True)
    if level == "sequence":
        log_ratio = log_ratio / rollouts.completion_mask.sum(1, keepdim=True).clamp(min=1)
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def masked_advantages(rollouts: Rollouts) -> Tensor:
    """(B, T) advantages, 0 outside the mask."""
    return rollouts.advantages.masked_fill(~rollouts.completion_mask, 0.0)


def clipped_surrogate(
    rollouts: Rollouts,
    *,
    clip_low: float,
    clip_high: float,
    ratio: Level = "token",
    dual_clip: float | None = None,
    ratio_cap: float | None = None,
) -> Tensor:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) of every token (arXiv:1707.06347, eq. 7), (B, T).

    An action that became more probable although it was bad (A < 0) is clipped nowhere by that; two papers bound it:
    `dual_clip` c keeps the value at most -c A where A < 0 (arXiv:1912.09729), `ratio_cap` puts min(r, cap) in
    the place of the first r (arXiv:2505.07291). Above 1 + clip_high they are the same. With r of a whole row every
    token of it has the same value, if it has the same advantage.
    """
    advantages = masked_advantages(rollouts)
    r = policy_log_ratio(rollouts, ratio).exp()
    clipped = r.clamp(1 - clip_low, 1 + clip_high)
    if ratio_cap is not None:
        r = r.clamp(max=ratio_cap)
    values = -(r * advantages).minimum(clipped * advantages)
    if dual_clip is not None:
        values = values.where(advantages >= 0, values.minimum(-dual_clip * advantages))
    return values


@algorithm("sgrpo", paper="arXiv:1707.06347, eq. 7, per token; advantages of arXiv:2402.03300")
def sgrpo(
    rollouts: Rollouts,
    *,
    clip_low: Fraction = 0.2,
    clip_high: NonNegative = 0.2,
    ratio: Level = "token",
    dual_clip: AboveOne | None = None,
    ratio_cap: AtLeastOne | None = None,
) -> Tensor:
    """Clipped surrogate -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) of every token, without a critic.

    On the first update of a step the ratio is 1 and the gradient is that of REINFORCE; the value is then minus the mean
    advantage, so a loss near 0 is normal. With its defaults this is GRPO with a mean over tokens; `ratio`,
    `dual_clip` and `ratio_cap` are those of `clipped_surrogate`.
    """
    return clipped_surrogate(
        rollouts,
        clip_low=clip_low,
        clip_high=clip_high,
        ratio=ratio,
        dual_clip=dual_clip,
        ratio_cap=ratio_cap,
    )


@algorithm("ppo", paper="arXiv:1707.06347, eq. 7; advantages of arXiv:1506.02438, eq. 16")
def ppo(
    rollouts: Rollouts,
    *,
    clip_low: Fraction = 0.2,
    clip_high: NonNegative = 0.2,
    dual_clip: AboveOne | None = None,
) -> Tensor:
    """Clipped surrogate of every token, with advantages from a critic (its own loss is in critic.py).

    `dual_clip` is that of `clipped_surrogate`.
    """
    return clipped_surrogate(rollouts, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)


@algorithm("dapo", paper="arXiv:2503.14476, eq. 8")
def dapo(rollouts: Rollouts, *, clip_low: Fraction = 0.2, clip_high: NonNegative = 0.28) -> Tensor:
    """Clipped surrogate with more room upwards, so that rare tokens can become frequent (clip-higher)."""
    return clipped_surrogate(rollouts, clip_low=clip_low, clip_high=clip_high)


@algorithm("dr_grpo", paper="arXiv:2503.20783, section 3.2")
def dr_grpo(rollouts: Rollouts, *, clip_low: Fraction = 0.2, clip_high: NonNegative = 0.2) -> Tensor:
    """Clipped surrogate of every token, to be divided by a constant and not by lengths, with r - mean as advantage."""
    return clipped_surrogate(rollouts, clip_low=clip_low, clip_high=clip_high)


@algorithm("gspo", paper="arXiv:2507.18071, eq. 5 and 7")
def gspo(
    rollouts: Rollouts, *, clip_low: Fraction = 3e-4, clip_high: NonNegative = 4e-4, ratio: Level = "sequence"
) -> Tensor:
    """Clipped surrogate of the geometric mean of the ratios of a completion, the same value on each of its tokens.

    A mean over tokens moves by far less than one token, hence the small bounds: with 0.2 nothing is ever clipped.
    """
    return clipped_surrogate(rollouts, clip_low=clip_low, clip_high=clip_high, ratio=ratio)


@algorithm("luspo", paper="arXiv:2602.05261; bounds of section 5.1")
def luspo(
    rollouts: Rollouts, *, clip_low: Fraction = 2e-3, clip_high: NonNegative = 2.5e-3, ratio: Level = "sequence"
) -> Tensor:
    """Clipped surrogate of GSPO, to be summed over the tokens of a completion: long ones count by their length."""
    return clipped_surrogate(rollouts, clip_low=clip_low, clip_high=clip_high, ratio=ratio)


@algorithm("rloo", paper="arXiv:2402.14740, REINFORCE leave-one-out, as a clipped surrogate")
def rloo(
    rollouts: Rollouts, *, clip_low: Fraction = 0.2, clip_high: NonNegative = 0.2, ratio: Level = "sequence_sum"
) -> Tensor:
    """Clipped surrogate with the whole completion as one action, the same value on each of its tokens.

    The ratio is the product of those of the tokens. At the first update it is 1 and the gradient is that of REINFORCE
    with the mean reward of the other completions as baseline; off-policy, long completions are soon clipped.
    """
    return clipped_surrogate(rollouts, clip_low=clip_low, clip_high=clip_high, ratio=ratio)


@algorithm("reinforce_pp", paper="arXiv:2501.03262, section 3")
def reinforce_pp(rollouts: Rollouts, *, clip_low: Fraction = 0.2, clip_high: NonNegative = 0.2) -> Tensor:
    """Clipped surrogate of every token with its discounted return as advantage, whitened over the step: no group."""
    return clipped_surrogate(rollouts, clip_low=clip_low, clip_high=clip_high)


@algorithm("reinforce_pp_baseline", paper="arXiv:2501.03262, section 3, with the group's mean as baseline")
def reinforce_pp_baseline(rollouts: Rollouts, *, clip_low: Fraction = 0.2, clip_high: NonNegative = 0.2) -> Tensor:
    """Clipped surrogate of every token with r - mean of the group as advantage, whitened over the step."""
    return clipped_surrogate(rollouts, clip_low=clip_low, clip_high=clip_high)
