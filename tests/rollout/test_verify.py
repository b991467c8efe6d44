from __future__ import annotations

import math

import pytest

from oxrl_core.errors import LogprobGapError, StalePolicyError, WeightSyncError
from oxrl_core.rollout.verify import (
    PROBE_TOKENS,
    check_fingerprint,
    check_logprob_gap,
    check_versions,
    logprob_gap,
    probe_row,
)
from oxrl_core.types import Prompt, Rollout


def rollout(logprobs: list[float], version: int = 3, sample: int = 0) -> Rollout:
    prompt = Prompt(id="copy3/train/7", token_ids=[1, 2], text="ab")
    return Rollout(prompt, sample, [5] * len(logprobs), logprobs, "length", version, seed=1)


def test_the_fingerprint_is_the_largest_distance_over_all_workers() -> None:
    assert check_fingerprint([0.0, -1.0, -2.0], [[0.0, -1.0, -2.0], [0.0, -1.25, -2.0]], 0.5) == 0.25


@pytest.mark.parametrize("bad", [-2.002, math.nan, -math.inf])
def test_one_worker_with_other_weights_is_named(bad: float) -> None:
    with pytest.raises(WeightSyncError) as caught:
        check_fingerprint([0.0, -1.0, -2.0], [[0.0, -1.0, -2.0], [0.0, -1.0, bad]], 1e-3)
    assert caught.value.where == "sampler worker 1" and "probe token 2" in caught.value.what


def test_a_probe_of_another_length_is_refused() -> None:
    with pytest.raises(WeightSyncError, match="3 tokens of the probe row, the sampler 2"):
        check_fingerprint([0.0, -1.0, -2.0], [[0.0, -1.0]], 1.0)


def test_the_probe_row_is_the_same_everywhere_and_fits() -> None:
    assert probe_row(19, 4096) == probe_row(19, 4096)
    assert len(probe_row(19, 4096)) == PROBE_TOKENS > 128
    assert len(probe_row(19, 64)) == 63
    assert set(probe_row(19, 4096)) == set(range(19))


def test_a_rollout_of_an_older_policy_is_refused() -> None:
    check_versions([rollout([-1.0]), rollout([-1.0])], 3)
    with pytest.raises(StalePolicyError, match="1 of 2 rollouts come from policy version 2") as caught:
        check_versions([rollout([-1.0]), rollout([-1.0], version=2, sample=1)], 3)
    assert caught.value.where == "copy3/train/7, sample 1"


def test_the_gap_is_a_mean_over_tokens_not_over_samples() -> None:
    gap = logprob_gap([rollout([-1.0]), rollout([-1.0, -1.0, -1.0], sample=1)], [[-1.0], [-1.0, -1.0, -1.4]])
    assert gap.mean == pytest.approx(0.1)
    assert gap.max == pytest.approx(0.4)
    assert gap.worst == "copy3/train/7/1, token 2"


@pytest.mark.parametrize("ours", [-1.01, math.nan])
def test_a_gap_above_the_limit_stops_the_run(ours: float) -> None:
    with pytest.raises(LogprobGapError, match="disagree about the same tokens"):
        check_logprob_gap([rollout([-1.0, -1.0])], [[-1.0, ours]], 1e-3)
    assert check_logprob_gap([rollout([-1.0])], [[-1.0005]], 1e-3).mean == pytest.approx(5e-4)
