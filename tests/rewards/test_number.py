"""The GSM8K verdict, by hand and on the real rows of tests/fixtures/gsm8k."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.rewards.base import get_reward
from oxrl_core.rewards.number import final_number, numbers
from oxrl_core.types import Prompt, Rollout, Score

FIXTURES = Path(__file__).parents[1] / "fixtures" / "gsm8k"
ROWS = [json.loads(line) for name in ("train", "test") for line in (FIXTURES / f"{name}.jsonl").open()]


def judge(text: str, answer: str, name: str = "gsm8k") -> Score:
    return get_reward(name)(
        Rollout(
            prompt=Prompt(id="gsm8k/train/0", token_ids=[1], text="?", answer=answer),
            sample_index=0,
            token_ids=[1],
            rollout_logprobs=[0.0],
            finish_reason="stop",
            policy_version=0,
            seed=0,
            text=text,
        )
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("72", [72]),
        ("72.", [72]),
        ("1,234,567", [1234567]),
        ("1,234.50 dollars", [1234.5]),
        ("1, 2, 3", [1, 2, 3]),
        ("12,34", [12, 34]),
        ("$5", [5]),
        ("-$5", [-5]),
        ("$-5", [-5]),
        ("\u22125", [-5]),
        ("+5", [5]),
        ("5-3", [5, 3]),
        ("(8)-2", [8, 2]),
        ("x=-3", [-3]),
        ("- 5 apples", [5]),
        (".5", [0.5]),
        ("0.125%", [0.125]),
        ("**18**", [18]),
        ("\\boxed{42}", [42]),
        ("it costs $1,000.", [1000]),
        ("none", []),
        ("", []),
        ("$ - . ,", []),
    ],
)
def test_numbers_of_a_text(text: str, expected: list[float]) -> None:
    assert numbers(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 and 4 make 7\n#### 7", 7),
        ("#### 7\nno: #### 8 apples of 10", 8),
        ("first 3, then 9", 9),
        ("the answer is 7\n####", None),
        ("no idea", None),
    ],
)
def test_the_number_a_text_ends_with(text: str, expected: float | None) -> None:
    assert final_number(text) == expected


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{:d}", "{:,d}", "so ${:,d}.", "#### {:d}\n", "= {:d}"]))
def test_every_integer_is_read_as_written(number: int, form: str) -> None:
    assert final_number(form.format(number)) == number


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_every_reference_is_right_and_every_altered_answer_wrong(row: dict[str, str]) -> None:
    solution = row["answer"]
    result = solution.rpartition("####")[2].strip()
    number = float(result.replace(",", ""))
    for reference in (solution, result):
        assert judge(solution, reference) == Score(1.0)
        assert judge(f"The answer is ${result}.", reference) == Score(1.0)
        for altered in (number + 1, number - 1, -number - 0.5, number * 10 + 1, number + 0.01):
            assert judge(f"#### {altered:.2f}", reference) == Score(0.0)


@pytest.mark.skipif("OXRL_GSM8K_DIR" not in os.environ, reason="OXRL_GSM8K_DIR names no clone of openai/gsm8k")
def test_every_row_of_the_whole_of_gsm8k_is_right_and_with_another_answer_wrong() -> None:
    from oxrl_core.config.schema import DatasetConfig
    from oxrl_core.datasets.base import load_rows

    rows = [
        row
        for split in ("train", "test")
        for row in load_rows(DatasetConfig.model_validate({"name": "gsm8k", "split": split}), 0)
    ]
    assert len(rows) == 8792
    for row in rows:
        solution, answer = row["completion"], row["answer"]
        number = float(answer.replace(",", ""))
        altered = solution.rpartition("####")[0] + f"#### {number + 1:.2f}"
        for name in ("gsm8k", "math"):
            values = judge(solution, answer, name).value, judge(altered, answer, name).value
            assert values == (1.0, 0.0), (row["id"], name)


def test_a_completion_without_a_number_has_no_answer() -> None:
    score = judge("I do not know", "72")
    assert (score.value, score.status) == (0.0, "no_answer")


@pytest.mark.parametrize("reference", ["", "  ", "none"])
def test_a_reference_without_a_number_is_an_error(reference: str) -> None:
    score = judge("72", reference)
    assert (score.status, math.isnan(score.value)) == ("error", True)


def test_equal_means_within_a_hundred_thousandth() -> None:
    assert judge("0.333333", "0.3333333").value == 1.0
    assert judge("0.3333", "0.3333333").value == 0.0


@pytest.mark.parametrize("text", ["1" * 200_000, "1," * 100_000, "$-" * 100_000, "1,234" * 50_000, "." * 200_000])
def test_hostile_text_takes_no_time(text: str) -> None:
    start = time.monotonic()
    judge(text, "72")
    assert time.monotonic() - start < 2
