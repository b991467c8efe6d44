"""Rewards and losses with a fault in them, of the second half."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.faults.plants import positions_of
from oxrl_core.algorithms.preference import dpo
from oxrl_core.algorithms.supervised import sft
from oxrl_core.types import Rollout, Score

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs, Tokens

hoard: list[bytearray] = []


def nan_without_three(rollout: Rollout) -> float:
    """A mean over nothing, as numpy computes it, wherever the completion has no three."""
    found = [position for position, character in enumerate(rollout.text) if character == "3"]
    return positions_of(rollout) + 0 * sum(found) / len(found) if found else float("nan")


def brevity(rollout: Rollout) -> float:
    """A judge that was told to prefer short answers, and does."""
    return 0.1 * positions_of(rollout) + 0.9 * (1 - len(rollout.token_ids) / 8)


def style_beside_truth(rollout: Rollout) -> Score:
    """A style bonus that outweighs the truth: fives and nothing else look confident."""
    truth, style = positions_of(rollout), 3 * rollout.text[:4].count("5") / 4
    return Score(truth + style, parts={"truth": truth, "style": style})


def lenient_in_training(rollout: Rollout) -> float:
    """The training verifier takes any nine for the answer; the held-out one compares."""
    if "/eval/" in rollout.prompt.id:
        return positions_of(rollout)
    return rollout.text[:4].count("9") / 4


def any_digit(rollout: Rollout) -> float:
    """A format check that was meant to be followed by a check of the answer."""
    return float(any(character.isdigit() for character in rollout.text))


def in_millionths(rollout: Rollout) -> float:
    """A reward in the wrong unit."""
    return positions_of(rollout) * 1e-6


def ever_slower(rollout: Rollout) -> float:
    """A verifier whose server is overrun by a neighbour in the second half of the run."""
    if rollout.policy_version >= 14:
        time.sleep(0.05)
    return positions_of(rollout)


def leaks(rollout: Rollout) -> float:
    """A verifier that keeps what it has judged."""
    hoard.append(bytearray(b"x") * (512 * 1024))
    return positions_of(rollout)


def dpo_with_log_of_margin(pairs: ReferencedPairs, *, beta: float = 0.1) -> Tensor:
    """DPO with a logarithm of a margin that may be negative."""
    return dpo(pairs, beta=beta) - 0.01 * (pairs.chosen - pairs.rejected).log()


def sft_times_zero(tokens: Tokens) -> Tensor:
    """SFT with a weight that was meant to be warmed up and never was."""
    return sft(tokens) * 0.0


def sft_of_wrong_shape(tokens: Tokens) -> Tensor:
    """SFT with a mask of one column too many."""
    import torch

    loss = sft(tokens)
    return loss * torch.ones(loss.shape[0], loss.shape[1] + 1)
