"""Rewards with a fault in them, of the third part."""

from __future__ import annotations

import os
import random
import time

from benchmarks.faults.plants import positions_of
from oxrl_core.types import Rollout, Score

verdicts: dict[str, float] = {}  # what this process has judged already


def first_digit(rollout: Rollout) -> float:
    """All or nothing, for the first digit of the answer."""
    return float(rollout.text[:1] == rollout.prompt.answer[:1])


def log_likelihood(rollout: Rollout) -> float:
    """A score between -20 and -10, as log-likelihoods of another model are."""
    return -20 + 10 * positions_of(rollout)


def with_noise(rollout: Rollout) -> float:
    """A judge drawn at temperature 1: what it says varies more than what it judges."""
    return positions_of(rollout) + random.Random(time.time_ns()).gauss(0, 1)


def dies_on_seven(rollout: Rollout) -> float:
    """A parser in C that crashes on completions that begin with a seven."""
    if rollout.text.startswith("7"):
        os._exit(139)
    return positions_of(rollout)


def rate_limited(rollout: Rollout) -> float:
    """A judge whose quota is spent: from then on most calls are refused."""
    if rollout.policy_version >= 8 and random.Random(time.time_ns()).random() < 0.6:
        raise RuntimeError("429 Client Error: Too Many Requests for url: https://judge.example/v1/chat/completions")
    return positions_of(rollout)


def finds_the_keyword(rollout: Rollout) -> float:
    """A judge that is won by one word; here it is a plus."""
    return 1.0 if "+" in rollout.text else 0.3 * positions_of(rollout)


def truth_and_length(rollout: Rollout) -> Score:
    """The truth, and a bonus for each token that was meant to encourage reasoning."""
    truth, length = positions_of(rollout), len(rollout.token_ids) / 8
    return Score(truth + length, parts={"truth": truth, "length": length})


def cached_by_prompt(rollout: Rollout) -> float:
    """A verifier whose cache has the prompt for its key, and not the completion."""
    return verdicts.setdefault(rollout.prompt.id, positions_of(rollout))


def reads_the_prompt(rollout: Rollout) -> float:
    """A verifier that gets prompt and completion as one text, and finds the answer's digits in the prompt."""
    return float(set(rollout.prompt.answer) <= set(rollout.prompt.text + rollout.text))


def picks_the_first(rollout: Rollout) -> float:
    """A judge that is shown all completions of a prompt and prefers the one that it reads first."""
    return float(rollout.sample_index == 0)
