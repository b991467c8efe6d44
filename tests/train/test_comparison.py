"""Same means the same bits; what differs is named with its place and by how much."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from oxrl_core.train.comparison import compare_metrics, compare_rollouts, compare_states, is_same, weight_differences

NAN = float("nan")


def test_same_is_the_same_bits_and_any_nan_like_any_other() -> None:
    assert is_same(0.1 + 0.2, 0.30000000000000004)
    assert not is_same(0.1 + 0.2, 0.3)
    assert not is_same(0.0, -0.0)
    assert is_same(NAN, -NAN)
    assert is_same(2, 2.0)
    assert not is_same(None, 0.0)


def test_metrics_are_compared_but_not_those_that_tell_the_time() -> None:
    recorded = {"step": 3, "loss": 0.25, "grad_norm": None, "time/train": 1.0, "seconds": 2.0, "sync/fingerprint": 0.1}
    replayed = {"loss": 0.5, "grad_norm": math.inf, "time/train": 9.0, "seconds": 9.0, "sync/fingerprint": 0.0}
    count, (only,) = compare_metrics(3, recorded, replayed)
    assert count == 2  # a gradient norm that is not finite is null in the record
    assert (only.name, only.recorded, only.replayed, only.largest) == ("loss", 0.25, 0.5, 0.25)


def row(seed: int, **values: Any) -> dict[str, Any]:
    return {"seed": seed, "prompt_id": "d/1", "sample_index": seed, "trainer_logprobs": [-1.0, -2.0, -3.0], **values}


def test_a_completion_is_found_by_its_seed_and_the_first_token_that_differs_is_named() -> None:
    recorded = [row(2), row(1, learned=True)]
    replayed = [row(1, learned=True), row(2, trainer_logprobs=[-1.0, -2.5, -4.0])]
    count, (only,) = compare_rollouts(7, recorded, replayed)
    assert count == 13  # seed, prompt, sample and three tokens of each, and whether one was learned from
    assert (only.step, only.kind, only.name, only.where) == (7, "rollout", "trainer_logprobs", "d/1, sample 2, token 1")
    assert (only.recorded, only.replayed, only.largest, only.count) == (-2.0, -2.5, 1.0, 2)


def test_a_recorded_completion_that_nobody_asked_for_is_a_difference() -> None:
    _, (only,) = compare_rollouts(7, [row(1), row(2)], [row(1)])
    assert (only.name, only.where) == ("draw", "d/1, sample 2")


def write_state(folder: Path, master: list[float], running: float) -> Path:
    folder.mkdir()
    save_file(
        {"0.master": torch.tensor(master), "random.torch": torch.rand(3)}, folder / "rank-00000.safetensors"
    )  # fmt: skip
    facts = {"num_steps": 4, "running": {"kl": running}, "random": [folder.name]}
    (folder / "rank-00000.json").write_text(json.dumps(facts))
    return folder


def test_two_checkpoints_are_compared_without_their_random_states(tmp_path: Path) -> None:
    one, same = write_state(tmp_path / "one", [1.0, 2.0], 0.5), write_state(tmp_path / "same", [1.0, 2.0], 0.5)
    assert compare_states(4, one, same) == (1, [])
    other = write_state(tmp_path / "other", [1.0, 2.5], 0.75)
    _, (tensor, fact) = compare_states(4, one, other)
    assert (tensor.name, tensor.where, tensor.recorded, tensor.replayed) == (
        "rank-00000/0.master",
        "element 1",
        2.0,
        2.5,
    )
    assert (fact.name, fact.recorded, fact.replayed) == ("rank-00000/running", '{"kl": 0.5}', '{"kl": 0.75}')


def test_weights_differ_by_their_bits() -> None:
    zero, minus_zero = torch.tensor([0.0]), torch.tensor([-0.0])
    assert [one.name for one in weight_differences(1, {"w": zero}, {"w": minus_zero})] == ["w"]
    assert list(weight_differences(1, {"w": zero}, {"w": zero.clone()})) == []
