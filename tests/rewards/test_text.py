"""Rewards over text, by hand."""

from __future__ import annotations

import pytest

from oxrl_core.rewards.base import get_reward
from oxrl_core.types import FinishReason, Prompt, Rollout


def rollout(text: str, answer: str, finish_reason: FinishReason = "stop", num_tokens: int | None = None) -> Rollout:
    count = num_tokens if num_tokens is not None else len(text) + (finish_reason == "stop")
    return Rollout(
        prompt=Prompt(id="t/train/0", token_ids=[1], text="?", answer=answer),
        sample_index=0,
        token_ids=[5] * count,
        rollout_logprobs=[-1.0] * count,
        finish_reason=finish_reason,
        policy_version=0,
        seed=0,
        text=text,
    )


@pytest.mark.parametrize(
    ("text", "finish_reason", "value"),
    [
        ("024", "stop", 1.0),
        ("024", "length", 0.75),  # right, but it did not stop
        ("0249", "length", 0.75),
        ("0249", "stop", 0.75),  # it stopped one too late
        ("02", "stop", 0.5),  # one too early
        ("", "stop", 0.0),
        ("999", "stop", 0.25),  # it stopped at the right place
        ("420", "stop", 0.5),
        ("124", "length", 0.5),
        ("24", "stop", 0.0),
    ],
)
def test_positions_by_hand(text: str, finish_reason: FinishReason, value: float) -> None:
    score = get_reward("positions")(rollout(text, "024", finish_reason))
    assert score.value == value
    assert sum(score.parts.values()) == pytest.approx(value)


@pytest.mark.parametrize("length", range(1, 60))
def test_a_right_answer_is_exactly_one(length: int) -> None:
    assert get_reward("positions")(rollout("7" * length, "7" * length)).value == 1.0


def test_a_hidden_special_token_cannot_stand_at_the_right_place_to_stop() -> None:
    # "0 <pad> 2 4 EOS" decodes to "024" too
    assert get_reward("positions")(rollout("024", "024", num_tokens=5)).value == 0.75


def test_long_tokens_do_not_count_as_hidden() -> None:
    assert get_reward("positions")(rollout("024", "024", num_tokens=2)).value == 1.0


@pytest.mark.parametrize(
    ("text", "value"), [("Paris", 1.0), (" Paris\n", 1.0), ("paris", 0.0), ("Paris.", 0.0), ("", 0.0)]
)
def test_exact_compares_stripped_text(text: str, value: float) -> None:
    assert get_reward("exact")(rollout(text, "Paris")).value == value


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("so it is 72.", "72", 1.0),
        ("so it is 72.", "some work\n#### 72", 1.0),
        ("so it is 73.", "72", 0.0),
        ("Paris", "Paris", 1.0),
        ("2 times Paris", "Paris", 0.0),
        ("024", "024", 1.0),
        ("24", "024", 0.0),  # three characters, not a number
        ("0.50", "0.5", 1.0),
        ("x = -$1,234.5", "-1234.5", 1.0),
    ],
)
def test_default_takes_numbers_as_numbers_and_text_as_text(text: str, answer: str, value: float) -> None:
    assert get_reward("default")(rollout(text, answer)).value == value
