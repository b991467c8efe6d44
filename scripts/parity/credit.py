"""PPO and REINFORCE++ whole, and the critic's loss, against their definitions, token by token in float64.

The formulas are those of verl's core_algos, written from the definitions: an advantage is a sum over what follows and
not a recursion, masked tokens are cut out before and not skipped on the way, and no tensor holds more than one token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean, variance

import torch
from torch import Tensor

from oxrl_core.advantages import discounted_returns, gae, group_centered, whiten
from oxrl_core.algorithms.critic import value_loss
from oxrl_core.algorithms.policy_gradient import ppo, reinforce_pp, reinforce_pp_baseline
from oxrl_core.types import Rollouts, Values
from scripts.parity.oracle import Loss, compare
from scripts.parity.policy_gradient import RolloutCase, rollout_cases
from scripts.parity.result import Parity

GAMMA, LAMBDA, CLIP, DUAL_CLIP, VALUE_CLIP = 0.99, 0.95, 0.2, 3.0, 0.2
Cases = Iterator[tuple[Tensor, Loss, Loss]]


def rows() -> list[Parity]:
    """One row for each algorithm whose advantages differ from token to token, and one for the critic."""
    return [
        compare("ppo", "verl's formulas token by token: GAE, whitening, dual clip 3", ppo_cases()),
        compare("ppo", "verl's formula token by token: clipped value loss", value_cases()),
        compare("reinforce_pp", "verl's formulas token by token: returns, whitening, clip", reinforce_cases()),
        compare("reinforce_pp_baseline", "verl's formulas token by token: r - mean, whitening, clip", baseline_cases()),
    ]


def ppo_cases() -> Cases:
    """Rewards on every token, as a KL in the reward makes them; the first row was cut off, the others ended."""
    for index, case in enumerate(unequal_cases()):
        rewards, values = noise_like(case, seed=2 * index), noise_like(case, seed=2 * index + 1)
        last_values = torch.tensor([0.7, 0.0, 0.0, 0.0])
        advantages, _ = gae(rewards, values, last_values, case.mask, gamma=GAMMA, gae_lambda=LAMBDA)
        expected = [
            generalised_advantages(row, value, float(last))
            for row, value, last in zip(kept(rewards, case), kept(values, case), last_values, strict=True)
        ]
        loss = partial(ppo, clip_low=CLIP, clip_high=CLIP, dual_clip=DUAL_CLIP)
        yield case.logprobs, our_mean(case, loss, advantages), token_by_token(case, expected, DUAL_CLIP)


def reinforce_cases() -> Cases:
    """Rewards on every token, discounted."""
    for index, case in enumerate(unequal_cases()):
        rewards = noise_like(case, seed=index)
        returns = discounted_returns(rewards, case.mask, gamma=GAMMA)
        expected = [
            [sum(GAMMA**later * reward for later, reward in enumerate(row[t:])) for t in range(len(row))]
            for row in kept(rewards, case)
        ]
        yield case.logprobs, our_mean(case, reinforce_pp, returns), token_by_token(case, expected)


def baseline_cases() -> Cases:
    """One reward for each completion."""
    for index, case in enumerate(unequal_cases()):
        rewards = noise_like(case, seed=index)[:, 0].tolist()
        centered = torch.tensor(group_centered(rewards))[:, None].expand(case.mask.shape)
        expected = [[reward - fmean(rewards)] * int(num) for reward, num in zip(rewards, case.mask.sum(1), strict=True)]
        yield case.logprobs, our_mean(case, reinforce_pp_baseline, centered), token_by_token(case, expected)


def value_cases() -> Cases:
    """Values that stayed near the measured ones and values that went far, towards the return and away from it."""
    for index, case in enumerate(unequal_cases()):
        measured, returns = noise_like(case, seed=2 * index), noise_like(case, seed=2 * index + 1)
        moved = measured + case.logprobs - case.old_logprobs
        yield moved, our_value_loss(case.mask, measured, returns), value_by_value(case.mask, measured, returns)


def our_value_loss(mask: Tensor, measured: Tensor, returns: Tensor) -> Loss:
    """The mean over tokens of the critic's loss."""

    def mean(values: Tensor) -> Tensor:
        seen = Values(values=values, old_values=measured, returns=returns, completion_mask=mask)
        return value_loss(seen, value_clip=VALUE_CLIP)[mask].sum() / mask.sum()

    return mean


def value_by_value(mask: Tensor, measured: Tensor, returns: Tensor) -> Loss:
    """The mean over tokens of the larger of two squared errors, that of the value and that of the clipped one."""

    def mean(values: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        tokens = zip(values[mask].double(), measured[mask].tolist(), returns[mask].tolist(), strict=True)
        for value, before, target in tokens:
            clipped = min(max(value, before - VALUE_CLIP), before + VALUE_CLIP)
            total = total + max((value - target) ** 2, (clipped - target) ** 2) / 2
        return total / mask.sum()

    return mean


def unequal_cases() -> Iterator[RolloutCase]:
    """The cases once: here they bring rewards of their own."""
    return (case for case in rollout_cases() if case.advantages.any())


def noise_like(case: RolloutCase, seed: int) -> Tensor:
    """(B, T) float32 noise."""
    return torch.randn(case.mask.shape, generator=torch.Generator().manual_seed(seed))


def kept(tensor: Tensor, case: RolloutCase) -> list[list[float]]:
    """The numbers of each row without its masked tokens."""
    return [row[mask].tolist() for row, mask in zip(tensor, case.mask, strict=True)]


def generalised_advantages(rewards: list[float], values: list[float], last_value: float) -> list[float]:
    """A_t = sum over l of (gamma lambda)^l delta_(t + l)."""
    following = [*values[1:], last_value]
    deltas = [r + GAMMA * after - v for r, v, after in zip(rewards, values, following, strict=True)]
    return [
        sum((GAMMA * LAMBDA) ** later * delta for later, delta in enumerate(deltas[t:])) for t in range(len(deltas))
    ]


def our_mean(case: RolloutCase, loss: Callable[[Rollouts], Tensor], advantages: Tensor) -> Loss:
    """The mean over tokens of one of our losses, with whitened advantages."""
    whitened = whiten(advantages, case.mask)

    def mean(logprobs: Tensor) -> Tensor:
        seen = Rollouts(
            logprobs=logprobs, completion_mask=case.mask, advantages=whitened, old_logprobs=case.old_logprobs
        )
        return loss(seen)[case.mask].sum() / case.mask.sum()

    return mean


def token_by_token(case: RolloutCase, advantages: Sequence[Sequence[float]], dual_clip: float | None = None) -> Loss:
    """The mean over tokens of the clipped surrogate, with whitened advantages."""
    everyone = [advantage for row in advantages for advantage in row]
    deviation = (variance(everyone) + 1e-8) ** 0.5
    whitened = [(advantage - fmean(everyone)) / deviation for advantage in everyone]

    def mean(logprobs: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        tokens = zip(logprobs[case.mask].double(), case.old_logprobs[case.mask].tolist(), whitened, strict=True)
        for logprob, old_logprob, advantage in tokens:
            ratio = (logprob - old_logprob).exp()
            loss = max(-ratio * advantage, -min(max(ratio, 1 - CLIP), 1 + CLIP) * advantage)
            if dual_clip is not None and advantage < 0:
                loss = min(loss, -dual_clip * advantage)
            total = total + loss
        return total / len(whitened)

    return mean
