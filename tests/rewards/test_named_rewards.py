"""`mcqa`, `format`, `reasoning`, `multimodal`, `composite`, `stopped`, by hand: what they pay and what they do not."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from oxrl_core.errors import ConfigError
from oxrl_core.rewards.base import close_workers, get_reward, score_rollouts
from oxrl_core.types import FinishReason, Prompt, Rollout, Score


@pytest.fixture(scope="module", autouse=True)
def workers_end() -> Iterator[None]:
    yield
    close_workers()


def rollout_of(text: str, answer: str = "", prompt: str = "", finish_reason: FinishReason = "stop") -> Rollout:
    return Rollout(Prompt("t/train/0", [1], prompt, answer), 0, [1], [0.0], finish_reason, 0, 0, text=text)


def judge(name: str, text: str, answer: str = "", prompt: str = "", **params: Any) -> Score:
    return get_reward(name, params)(rollout_of(text, answer, prompt))


@pytest.mark.parametrize(
    ("text", "value", "status"),
    [
        ("The answer is (B)", 1, "ok"),
        ("the answer is B.", 1, "ok"),
        ("The answer is: (b)", 1, "ok"),
        ("Answer: B", 1, "ok"),
        ("**Answer:** B", 1, "ok"),
        ("Answer: **B**", 1, "ok"),
        (r"The answer is $\boxed{B}$", 1, "ok"),
        (r"\boxed{\text{(B)}}", 1, "ok"),
        ("B", 1, "ok"),
        ("(B)", 1, "ok"),
        ("A is too small, so B", 1, "ok"),
        ("The answer is A. No: the answer is B.", 1, "ok"),
        ("<think>The answer is A</think>The answer is B", 1, "ok"),
        ("I think it is B", 1, "ok"),
        ("B is what a dog says. A dog!", 1, "ok"),  # an article
        ("Ｂ", 0, "no_answer"),  # a letter of another alphabet's width is not read
        ("The answer is (A)", 0, "ok"),
        ("The answer is (A) or (B)", 0, "ok"),
        ("The answer is B, C", 0, "ok"),
        ("Answer: A/B", 0, "ok"),
        ("A or B", 0, "ok"),
        ("A, B, C, D", 0, "ok"),
        ("The answer is not (B)", 0, "no_answer"),
        ("It isn't B", 0, "no_answer"),
        ("The answer is a matter of taste", 0, "no_answer"),
        ("Bob", 0, "no_answer"),
        ("B2B", 0, "no_answer"),
        ("Z", 0, "no_answer"),
        (r"\boxed{AB}", 0, "no_answer"),
        ("<think>The answer is B</think>", 0, "no_answer"),
        ("<think>The answer is B", 0, "no_answer"),
        ("", 0, "no_answer"),
    ],
)
def test_mcqa(text: str, value: float, status: str) -> None:
    score = judge("mcqa", text, "B")
    assert (score.value, score.status) == (value, status), score


@pytest.mark.parametrize("reference", ["B", "(B)", "B) Paris", "B. Paris", " B ", "[B]"])
def test_mcqa_reads_a_reference_in_its_usual_forms(reference: str) -> None:
    assert judge("mcqa", "Answer: B", reference).value == 1.0


def test_mcqa_knows_only_the_letters_that_can_be_chosen() -> None:
    assert judge("mcqa", "The answer is E", "E", letters="ABCD").status == "error"
    assert judge("mcqa", "B, and E", "B", letters="ABCD").value == 1.0
    assert judge("mcqa", "Answer: B", "Paris").status == "error"
    with pytest.raises(ConfigError, match="letters"):
        get_reward("mcqa", {"letters": "a-d"})


LONG = "The number of apples is found as follows, step by step."


@pytest.mark.parametrize(
    ("text", "finish_reason", "value"),
    [
        (f"{LONG}\n\nIt is 42.", "stop", 1.0),
        (f"{LONG}\n\nIt is 42.", "length", 0.75),
        (LONG, "stop", 0.75),
        ("Short.\n\nText.", "stop", 0.75),
        (f"I say: {LONG}\n\nIt is 42.", "stop", 0.75),
        ("x", "stop", 0.5),
        ("I", "length", 0.0),
        (f"{LONG}\n\n", "stop", 0.75),  # a blank line stands between two others
        ("\n\n" + LONG, "stop", 0.75),
    ],
)
def test_format(text: str, finish_reason: FinishReason, value: float) -> None:
    score = get_reward("format")(rollout_of(text, finish_reason=finish_reason))
    assert (score.value, score.status) == (value, "ok")
    assert sum(score.parts.values()) == value


def test_an_empty_completion_has_no_form() -> None:
    assert judge("format", " \n\n ") == Score(0.0, "no_answer", detail="the completion is empty")


@pytest.mark.parametrize(
    ("text", "prompt", "soft", "strict"),
    [
        ("<think>6 times 7</think><answer>42</answer>", "", 1.0, 1),
        ("<think>\n6 times 7\n</think>\n\n<answer>\n42\n</answer>\n", "", 1.0, 1),
        ("<thought>6 times 7</thought><answer>42</answer>", "", 1.0, 1),
        ("6 times 7</think><answer>42</answer>", "Solve.\n<think>\n", 1.0, 1),
        (r"<think>a</think><answer>\boxed{42}</answer>", "", 1.0, 1),
        ("<think>a</think><answer>42.0</answer>", "", 1.0, 1),
        ("<think>a</think><answer>41</answer>", "", 0.4, 0),
        ("<think>a</think>So: <answer>42</answer>", "", 1.0, 0),
        ("<answer>42</answer>", "", 0.8, 0),
        ("<think></think><answer>42</answer>", "", 0.8, 0),  # thinking of nothing
        ("a</think><answer>42</answer>", "", 0.8, 0),  # nobody opened it
        ("<think>a</think><think>b</think><answer>42</answer>", "", 0.8, 0),
        ("x<think>a</think><answer>42</answer>", "", 0.8, 0),
        (r"<think>a</think> \boxed{42}", "", 0.6, 0),
        (r"\boxed{42}", "", 0.4, 0),
        (r"<think>a</think> \boxed{41}", "", 0.2, 0),
        ("<think>a</think> 42", "", 0.2, 0),
        ("<think>a</think><answer></answer>", "", 0.2, 0),
        ("<think>a</think><answer>41</answer><answer>42</answer>", "", 0.2, 0),
        ("<think>a</think><answer>41, 42</answer>", "", 0.4, 0),
        ("<think>a</think><answer>41=42</answer>", "", 0.4, 0),
        (r"<think>a</think><answer>\boxed{41}\boxed{42}</answer>", "", 0.4, 0),
        ("<think><answer>42</answer></think>", "", 0.2, 0),
        (r"<think>\boxed{42}</think>", "", 0.2, 0),
        ("<think><answer>42</answer>", "", 0.0, 0),  # it never ends
        ("<answer>42</answer><think>a</think>", "", 0.0, 0),
        ("42", "", 0.0, 0),
        ("", "", 0.0, 0),
        ("<think><answer>", "", 0.0, 0),
    ],
)
def test_reasoning(text: str, prompt: str, soft: float, strict: int) -> None:
    score = judge("reasoning", text, "42", prompt)
    assert score.value == pytest.approx(soft), score
    assert sum(score.parts.values()) == pytest.approx(soft)
    exact = judge("reasoning", text, "42", prompt, mode="strict")
    assert exact.value == strict, exact


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("There are 3 dogs.", "3", 1.0),
        ("There are 3.0", "3", 1.0),
        ("There are ３", "3", 1.0),
        ("In the image there are 4", "3", 0.2),
        ("There are 4", "3", 0.0),
        ("3 dogs and 4 cats", "3", 0.0),
        ("It is a cat.", "cat", 1.0),
        ("It is a Cat", "cat", 1.0),
        ("concatenate", "cat", 0.0),
        ("cats", "cat", 0.0),
        ("the red car", "red car", 1.0),
        ("a car that is red", "red car", 0.0),
        ("The picture shows a dog", "cat", 0.2),
        ("The sound is a bell", "horn", 0.2),
        ("<think>a cat</think>a dog", "cat", 0.0),
        ("a cat? <answer>dog</answer>", "cat", 0.0),
        (r"a dog? \boxed{cat}", "cat", 1.0),
        ("cat " + "dog " * 80, "cat", 0.0),  # a long list of guesses is read from its end
        ("imagery", "cat", 0.0),
    ],
)
def test_multimodal(text: str, answer: str, value: float) -> None:
    score = judge("multimodal", text, answer)
    assert (score.value, score.status) == (value, "ok")


@pytest.mark.parametrize("text", ["", "<think>a cat", "<think>cat</think>", "..."])
def test_multimodal_without_an_answer(text: str) -> None:
    score = judge("multimodal", text, "cat")
    assert (score.value, score.status) == (0.0, "no_answer")


def test_stopped() -> None:
    reward = get_reward("stopped")
    assert reward(rollout_of("")).value == 1.0
    assert reward(rollout_of("", finish_reason="length")).value == 0.0


PARTS = [{"name": "math", "weight": 2.0}, {"name": "format", "weight": 0.5}, {"name": "stopped"}]


def test_composite_adds_what_its_parts_say_and_records_each() -> None:
    reward = get_reward("composite", {"parts": PARTS})
    text = rf"{LONG}" + "\n\n" + r"\boxed{42}"
    scores = score_rollouts(reward, [rollout_of(text, "42"), rollout_of(text, "41"), rollout_of("x", "42")], 60)
    assert [score.value for score in scores] == pytest.approx([3.5, 1.5, 1.25])
    assert [score.status for score in scores] == ["ok", "ok", "no_answer"]
    assert scores[0].parts["math"] == scores[0].parts["format"] == scores[0].parts["stopped"] == 1.0
    assert scores[0].parts["format/long"] == 0.25
    assert scores[2].detail.startswith("math: there is no closed")


def test_a_part_without_a_verdict_leaves_the_whole_without_one() -> None:
    score = judge("composite", "x", "", parts=PARTS)
    assert score.status == "error" and math.isnan(score.value)
    assert "math" not in score.parts and score.parts["stopped"] == 1.0
    assert "no reference answer" in score.detail


def test_a_reward_that_is_named_twice_keeps_both_of_its_scores() -> None:
    parts = [{"name": "mcqa", "params": {"letters": "AB"}}, {"name": "mcqa", "params": {"letters": "ABC"}}]
    assert judge("composite", "Answer: C", "B", parts=parts).parts == {"mcqa": 0.0, "mcqa#2": 0.0}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "parts"),
        ([{"weight": 1.0}], "Field required"),
        ([{"name": "maths"}], "Did you mean 'math'"),
        ([{"name": "math", "wieght": 1.0}], "parts"),
        ([{"name": "math", "weight": math.inf}], "a weight of inf"),
        ([{"name": "mcqa", "params": {"letter": "AB"}}], "Did you mean 'letters'"),
        ([{"name": "judge", "params": {"url": "http://x/v1", "modell": "m"}}], "Did you mean 'model'"),
        ([{"name": "reward_model", "params": {"path": "run:x"}}] * 2, "a run holds one reward model"),
        ([{"name": "composite", "params": {"parts": [{"name": "math"}]}}], "cannot be a part"),
    ],
)
def test_wrong_parts_are_refused_before_the_run(parts: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_reward("composite", {"parts": parts})


HOSTILE = [
    *("<think>" * 20_000, "</think>" * 20_000, "<answer>" * 20_000, "A " * 50_000, "answer is " * 20_000),
    *(r"\boxed{" * 20_000, "\n" * 100_000, " " * 100_000, "\n \n" * 50_000, "image " * 20_000, "not " * 25_000),
]


@pytest.mark.parametrize("name", ["mcqa", "format", "reasoning", "multimodal", "soft_math", "math", "gsm8k"])
def test_no_hostile_text_holds_a_reward(name: str) -> None:
    reward = get_reward(name)
    for text in HOSTILE:
        start = time.monotonic()
        score = reward(rollout_of(text, "B" if name == "mcqa" else "42"))
        assert time.monotonic() - start < 1.6, text[:10]
        assert score.value < 1 and score.status in ("ok", "no_answer"), (text[:10], score)
