"""SPIN and online DPO: DPO's numbers under lessons of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.algorithms.preference import dpo
from oxrl_core.algorithms.self_play import online_dpo, spin
from oxrl_core.types import ReferencedPairs


def pairs() -> ReferencedPairs:
    generator = torch.Generator().manual_seed(4)
    chosen, rejected = (-torch.rand((3, 5), generator=generator) for _ in range(2))
    everything = torch.ones((3, 5), dtype=torch.bool)
    return ReferencedPairs(
        chosen_logprobs=chosen.requires_grad_(),
        rejected_logprobs=rejected.requires_grad_(),
        chosen_mask=everything,
        rejected_mask=everything,
        margins=torch.zeros(3),
        chosen_ref=-5 * torch.rand(3, generator=generator),
        rejected_ref=-5 * torch.rand(3, generator=generator),
    )


@pytest.mark.parametrize("loss", [spin, online_dpo])
@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_the_arithmetic_is_that_of_dpo(loss: Callable[..., Tensor], beta: float) -> None:
    mine, theirs = pairs(), pairs()
    assert torch.equal(loss(mine, beta=beta), dpo(theirs, beta=beta))
    loss(mine, beta=beta).sum().backward()
    dpo(theirs, beta=beta).sum().backward()
    assert torch.equal(mine.chosen_logprobs.grad, theirs.chosen_logprobs.grad)


def test_they_draw_their_own_pairs_and_so_run_in_the_loop_with_a_sampler() -> None:
    assert [(get_algorithm(name).kind, get_algorithm(name).lesson) for name in ("spin", "online_dpo", "dpo")] == [
        ("rl", "self_play"),
        ("rl", "best_and_worst"),
        ("sl", "pairs"),
    ]
