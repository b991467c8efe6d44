"""What each completion token of a step was worth. Rewards, KL and values become one advantage per token.

All rollouts of the step are seen at once, on the controller: a whitening or a baseline over one rank's share would
depend on how the rollouts were spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oxrl_core.advantages import ADVANTAGES, discounted_returns, gae, whiten
from oxrl_core.train.objective import kl_per_token
from oxrl_core.types import Credit, Measurement, Rollout

if TYPE_CHECKING:
    from oxrl_core.config.schema import AlgorithmConfig, Config


def needs_measurement(config: Config) -> bool:
    """Whether the trainer must look at the rollouts before it learns from them."""
    algorithm, train = config.algorithm, config.train
    has_kl_in_reward = algorithm.kl_coef > 0 and algorithm.kl_place == "reward"
    return algorithm.advantage == "gae" or has_kl_in_reward or train.updates_per_step * train.passes_per_step > 1


def give_credit(
    groups: Sequence[Sequence[Rollout]],
    rewards: Sequence[float],
    measurements: Sequence[Measurement] | None,
    algorithm: AlgorithmConfig,
) -> list[Credit]:
    """The credit of each rollout, in the order of the flattened groups, from its shaped reward and measurement."""
    rollouts = [rollout for group in groups for rollout in group]
    if not rollouts:
        return []
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    penalty = torch.zeros(len(rollouts), max(lengths), dtype=torch.float64)  # (B, T)
    if measurements is not None and algorithm.kl_coef > 0 and algorithm.kl_place == "reward":
        old = _rows([measured.old_logprobs for measured in measurements])
        reference = _rows([measured.ref_logprobs for measured in measurements])
        penalty = algorithm.kl_coef * kl_per_token(old, reference, algorithm.kl_estimator)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    if algorithm.advantage in ADVANTAGES:
        advantages, returns = _of_groups(groups, rewards, penalty, algorithm.advantage)[:, None] * mask, None
    else:
        token_rewards = -penalty
        token_rewards[torch.arange(len(lengths)), torch.tensor(lengths) - 1] += torch.tensor(rewards).double()
        advantages, returns = _of_tokens(token_rewards, mask, rollouts, measurements, algorithm)
    if algorithm.whiten:
        advantages = whiten(advantages, mask)
    advantages = algorithm.advantage_scale * advantages
    return [
        Credit(
            advantages[row, :length].tolist(),
            [] if returns is None else returns[row, :length].tolist(),
            None if measurements is None else measurements[row],
            rewards[row],
        )
        for row, length in enumerate(lengths)
    ]


def _of_groups(
    groups: Sequence[Sequence[Rollout]], rewards: Sequence[float], penalty: Tensor, advantage: str
) -> Tensor:
    """(B,) one advantage for each rollout, from the rewards of its group less the KL of the whole completion."""
    paid = [reward - kl for reward, kl in zip(rewards, penalty.sum(1).tolist(), strict=True)]
    values: list[float] = []
    for group in groups:
        start = len(values)
        values += ADVANTAGES[advantage](paid[start : start + len(group)])
    return torch.tensor(values, dtype=torch.float64)


def _of_tokens(
    rewards: Tensor,
    mask: Tensor,
    rollouts: Sequence[Rollout],
    measurements: Sequence[Measurement] | None,
    algorithm: AlgorithmConfig,
) -> tuple[Tensor, Tensor | None]:
    """(B, T) advantages from the rewards of the tokens (B, T), and with a critic what it should have said."""
    if algorithm.advantage == "returns":
        return discounted_returns(rewards, mask, gamma=algorithm.discount), None
    assert measurements is not None
    last = [
        # A completion that was cut off would have gone on: it is worth what the critic expects of the rest.
        measured.last_value if rollout.finish_reason == "length" else 0.0
        for rollout, measured in zip(rollouts, measurements, strict=True)
    ]
    values = _rows([measured.values for measured in measurements])
    return gae(
        rewards,
        values,
        torch.tensor(last, dtype=torch.float64),
        mask,
        gamma=algorithm.discount,
        gae_lambda=algorithm.gae_lambda,
    )


def _rows(lists: Sequence[Sequence[float]]) -> Tensor:
    """The lists as rows of a float64 tensor (B, T), filled up with 0."""
    width = max(len(values) for values in lists)
    return torch.tensor([[*values, *[0.0] * (width - len(values))] for values in lists], dtype=torch.float64)
