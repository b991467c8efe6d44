"""Rewards over text, by hand."""

from __future__ import annotations

from dataclasses import replace

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


PAD, EOS = 0, 1


@pytest.mark.parametrize(
    ("tokens", "finish_reason", "value"),
    [
        ([10, 12, 14, EOS], "stop", 1.0),
        ([10, 12, 14, EOS], "length", 1.0),  # drawn to a fixed length: EOS is at its place all the same
        ([10, 12, 14, PAD], "length", 0.75),
        ([10, PAD, 12, 14, EOS], "stop", 0.25),  # its text is "024" too
        ([10, EOS, 14, EOS], "length", 0.75),  # it went on after an EOS: position by position
        ([10, 12, EOS], "stop", 0.5),
        ([10, 12, 14, 19, EOS], "stop", 0.75),
        ([10, 12, 14], "length", 0.75),
        ([], "length", 0.0),
    ],
)
def test_positions_of_character_tokens_are_compared_as_tokens(
    tokens: list[int], finish_reason: FinishReason, value: float
) -> None:
    drawn = rollout("024", "024", finish_reason)
    drawn.prompt = replace(drawn.prompt, answer_ids=[10, 12, 14, EOS])
    drawn.token_ids = tokens
    assert get_reward("positions")(drawn).value == value


def test_tokens_that_are_no_characters_are_compared_as_text() -> None:
    drawn = rollout("024", "024", num_tokens=2)
    drawn.prompt = replace(drawn.prompt, answer_ids=[77, EOS])
    assert get_reward("positions")(drawn).value == 1.0


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
