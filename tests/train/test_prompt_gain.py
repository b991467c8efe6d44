"""Which held-out rows are joined with another row's prompt, to see what prompts are worth to their answers."""

from __future__ import annotations

from oxrl_core.train.sl import swapped
from oxrl_core.types import Example


def row(prompt: list[int], answer: list[int]) -> Example:
    return Example(prompt + answer, [False] * len(prompt) + [True] * len(answer))


def test_each_answer_stands_behind_its_own_prompt_and_the_next_ones_answer_behind_it() -> None:
    one, two = row([1, 2], [3, 4]), row([5, 6, 7], [8])
    assert swapped([one, two]) == [(one, row([1, 2], [8])), (two, row([5, 6, 7], [3, 4]))]


def test_rows_of_text_alone_have_no_prompt_to_be_joined_with_another() -> None:
    assert swapped([row([1], [2, 3]), row([4], [5, 6])]) == []
    assert swapped([row([], [2, 3]), row([], [5, 6])]) == []
