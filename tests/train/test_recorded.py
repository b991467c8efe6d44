"""Completions are looked up where a run would draw them, and nothing else can come of it."""

from __future__ import annotations

from typing import Any

import pytest

from oxrl_core.errors import DataError, NotFoundError
from oxrl_core.rollout.sampler import sample_seed
from oxrl_core.train.draw import SEED_STRIDE
from oxrl_core.train.recorded import RecordedSampler
from oxrl_core.types import Prompt, Rollout

TEN, ELEVEN = Prompt("d/10", [1, 2], "ten"), Prompt("d/11", [3], "eleven")


def record(prompt: Prompt, sample: int, seed: int, **changed: Any) -> dict[str, Any]:
    return {
        "seed": seed,
        "prompt_token_ids": prompt.token_ids,
        "completion_token_ids": [7, sample],
        "rollout_logprobs": [-0.5, -0.25],
        "finish_reason": "stop",
        "policy_version": 4,
        "completion_text": f"{prompt.text} {sample}",
        "score": float(sample),
        "score_status": "ok",
        "score_parts": {"form": 1.0},
        "score_detail": "why",
        **changed,
    }


def sampler_of(*records: dict[str, Any]) -> RecordedSampler:
    read: list[int] = []

    def rows(step: int) -> list[dict[str, Any]]:
        read.append(step)
        return list(records) if step == 5 else []

    return RecordedSampler(rows, run_seed=3)


def draw(sampler: RecordedSampler, *prompts: Prompt, step: int = 4, group_size: int = 2) -> list[Rollout]:
    return sampler.generate(prompts, group_size=group_size, temperature=1.0, max_tokens=8, step=step)


def test_completions_come_in_the_order_of_the_prompts_whatever_the_order_of_the_record() -> None:
    records = [record(p, i, sample_seed(3, 4, p.id, i)) for p in (TEN, ELEVEN) for i in (0, 1)]
    sampler = sampler_of(*reversed(records))
    rollouts = draw(sampler, TEN, ELEVEN)
    assert [(one.text, one.policy_version, one.score) for one in rollouts] == [
        ("ten 0", 4, None), ("ten 1", 4, None), ("eleven 0", 4, None), ("eleven 1", 4, None),
    ]  # fmt: skip
    sampler.judge(rollouts)
    assert [one.score.value for one in rollouts if one.score] == [0.0, 1.0, 0.0, 1.0]
    assert rollouts[1].score is not None
    assert (rollouts[1].score.parts, rollouts[1].score.detail) == ({"form": 1.0}, "why")


def test_a_prompt_drawn_twice_and_a_second_round_have_completions_of_their_own() -> None:
    twice = [record(TEN, index % 2, sample_seed(3, 4, TEN.id, index)) for index in range(4)]
    twice[2]["completion_text"] = "third"
    second_round = record(TEN, 0, sample_seed(3, 4 + SEED_STRIDE, TEN.id, 0), completion_text="again")
    sampler = sampler_of(*twice, second_round)
    assert [one.text for one in draw(sampler, TEN, TEN)] == ["ten 0", "ten 1", "third", "ten 1"]
    assert draw(sampler, TEN, step=4 + SEED_STRIDE, group_size=1)[0].text == "again"


def test_what_was_not_drawn_is_not_made_up() -> None:
    sampler = sampler_of(record(TEN, 0, sample_seed(3, 4, TEN.id, 0)))
    with pytest.raises(NotFoundError, match="step 5, d/10, sample 1"):
        draw(sampler, TEN)
    with pytest.raises(NotFoundError, match="step 6, d/10, sample 0"):
        draw(sampler, TEN, step=5, group_size=1)


def test_data_that_changed_under_the_run_is_said() -> None:
    sampler = sampler_of(record(ELEVEN, 0, sample_seed(3, 4, TEN.id, 0)))
    with pytest.raises(DataError, match="the data changed"):
        draw(sampler, TEN, group_size=1)


def test_a_completion_that_was_never_judged_has_no_verdict_to_repeat() -> None:
    sampler = sampler_of(record(TEN, 0, sample_seed(3, 4, TEN.id, 0), score=None, score_status=None))
    rollouts = draw(sampler, TEN, group_size=1)
    with pytest.raises(DataError, match="no score"):
        sampler.judge(rollouts)
