"""What a run says before it starts about references that a reward of somebody's own does not pay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from oxrl_core.rewards.base import close_workers, get_reward, score_rollouts
from oxrl_core.rewards.self_test import rollout_of, self_test
from oxrl_core.types import Prompt, Row

FILE = """
import time

calls = []

def equal(rollout):
    return float(rollout.text == rollout.prompt.answer)

def boxed(rollout):
    return float(rollout.text == "[" + rollout.prompt.answer + "]")

def distance(rollout):
    return float(abs(len(rollout.text) - len(rollout.prompt.answer)) + (rollout.text != rollout.prompt.answer))

def by_length(rollout):
    return len(rollout.text) / 10

def form(rollout):
    return float(not rollout.text.startswith(" "))

def not_too_long(rollout):
    return -float(len(rollout.text) > 100)

def numbers_only(rollout):
    return float(rollout.text == rollout.prompt.answer and rollout.text.isdigit())

def slow(rollout):
    time.sleep(30)

def fails(rollout):
    return rollout.token_ids[0]

def counted(rollout):
    calls.append(1)
    return float(len(calls))

def listed(completions, answer):
    return [float(text != wanted) for text, wanted in zip(completions, answer)]

def by_tokens(prompt_ids, response_ids, finish_reason):
    return [float(len(response_ids))], False
"""


@pytest.fixture(autouse=True)
def no_workers() -> Iterator[None]:
    yield
    close_workers()


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FILE)
    return f"{tmp_path}/mine.py"


def rows(*answers: str) -> list[Row]:
    return [
        {"id": f"t/train/{place}", "prompt": "?", "answer": answer, "row": {}} for place, answer in enumerate(answers)
    ]


NUMBERS = [str(number) * (1 + number % 3) for number in range(1, 17)]


@pytest.mark.parametrize("function", ["equal", "by_length", "form", "fails", "by_tokens"])
def test_rewards_that_pay_their_references_or_look_at_none_raise_no_doubt(function: str, own: str) -> None:
    outcome = self_test(get_reward(f"{own}:{function}"), rows(*NUMBERS), 60)
    assert outcome.doubts == "" and outcome.tested == 0 and outcome.skipped == 16


def test_references_that_are_paid_nothing_are_a_doubt_and_no_error(own: str) -> None:
    assert (
        "pays nothing for any reference of 8 rows" in self_test(get_reward(f"{own}:boxed"), rows(*NUMBERS), 60).doubts
    )


@pytest.mark.parametrize("function", ["distance", "listed"])
def test_references_of_other_rows_that_are_paid_more(function: str, own: str) -> None:
    doubts = self_test(get_reward(f"{own}:{function}"), rows(*NUMBERS), 60).doubts
    assert "references of 8 of 8 rows" in doubts and "less than those of other rows" in doubts


def test_a_part_that_is_taken_off_is_judged_by_its_sign(own: str) -> None:
    off = get_reward("composite", {"parts": [{"name": f"{own}:distance", "weight": -1.0}, {"name": "format"}]})
    assert self_test(off, rows(*NUMBERS), 60).doubts == ""
    wrong = get_reward("composite", {"parts": [{"name": f"{own}:equal", "weight": -1.0}]})
    assert "less than" in self_test(wrong, rows(*NUMBERS), 60).doubts


def test_some_references_that_are_paid_no_more_than_others(own: str) -> None:
    mixed = [answer if place % 2 else f"x = {answer}" for place, answer in enumerate(NUMBERS)]
    doubts = self_test(get_reward(f"{own}:numbers_only"), rows(*mixed), 60).doubts
    assert "references of 4 of 8 rows" in doubts and "no more than" in doubts


def test_few_rows_equal_ones_and_empty_ones_say_nothing(own: str) -> None:
    for answers in (NUMBERS[:6], ["7"] * 16, [""] * 16):
        assert self_test(get_reward(f"{own}:boxed"), rows(*answers), 60).doubts == ""


def test_a_slow_reward_does_not_keep_the_run_from_starting(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oxrl_core.rewards.self_test.TRIAL_SECONDS", 1.0)
    began = monotonic()
    assert self_test(get_reward(f"{own}:slow"), rows(*NUMBERS), 600).doubts == ""
    assert monotonic() - began < 20


def test_a_reward_that_counts_its_calls_begins_anew(own: str) -> None:
    reward = get_reward(f"{own}:counted")
    self_test(reward, rows(*NUMBERS), 60)
    (score,) = score_rollouts(reward, [rollout_of(Prompt("p", [], "?", answer="1"), "1")], 60)
    assert score.value == 1.0
