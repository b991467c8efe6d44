"""Tensors of examples and rollouts, by hand and by properties."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.data.collate import collate_examples, collate_labeled, collate_pairs, collate_rollouts, split_rows
from oxrl_core.types import (
    Credit,
    Example,
    LabeledExample,
    Measurement,
    PairExample,
    Prompt,
    Rollout,
    TokenBatch,
)

PAD = 99


def example_of(num_prompt: int, num_completion: int, first: int = 1) -> Example:
    token_ids = list(range(first, first + num_prompt + num_completion))
    return Example(token_ids, [False] * num_prompt + [True] * num_completion)


def test_one_example_a_row_by_hand() -> None:
    batch = collate_examples([example_of(2, 2), example_of(1, 2, first=7)], PAD, packing=False, row_tokens=100)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [7, 8, 9, PAD]]
    assert batch.attention_mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]
    assert batch.completion_mask.tolist() == [[False, False, True, True], [False, True, True, False]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch.num_tokens == 4


def test_packed_rows_by_hand() -> None:
    examples = [example_of(1, 1), example_of(2, 3, first=10), example_of(1, 2, first=20)]
    batch = collate_examples(examples, PAD, packing=True, row_tokens=8)
    assert batch.input_ids.tolist() == [[1, 2, PAD, PAD, PAD, PAD, PAD, PAD], [10, 11, 12, 13, 14, 20, 21, 22]]
    assert batch.segment_ids.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 2, 2, 2]]
    assert batch.position_ids.tolist()[1] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.completion_mask.tolist()[1] == [False, False, True, True, True, False, True, True]


def test_the_first_token_of_a_segment_is_never_trained_on() -> None:
    batch = collate_examples([example_of(0, 3), example_of(0, 2, first=10)], PAD, packing=True, row_tokens=8)
    assert batch.completion_mask.tolist() == [[False, True, True, False, True]]


def segments(batch: TokenBatch) -> list[tuple[list[int], list[bool]]]:
    """Token ids and mask of every segment."""
    found = []
    for row in range(len(batch.input_ids)):
        for segment in range(1, int(batch.segment_ids[row].max()) + 1):
            where = batch.segment_ids[row] == segment
            assert batch.position_ids[row][where].tolist() == list(range(int(where.sum())))
            found.append((batch.input_ids[row][where].tolist(), batch.completion_mask[row][where].tolist()))
    return found


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20),
    st.integers(1, 40),
    st.booleans(),
)
def test_every_example_stands_in_the_batch_exactly_once(
    sizes: list[tuple[int, int]], limit: int, packing: bool
) -> None:
    examples = [example_of(*size, first=100 * index) for index, size in enumerate(sizes, start=1)]
    batch = collate_examples(examples, PAD, packing=packing, row_tokens=limit)
    assert sorted(segments(batch)) == sorted((example.token_ids, example.completion_mask) for example in examples)
    assert torch.equal(batch.attention_mask, batch.segment_ids > 0)
    assert (batch.input_ids[~batch.attention_mask] == PAD).all()
    assert batch.num_tokens == sum(completion for _, completion in sizes)
    if packing:
        assert batch.input_ids.shape[1] <= max(limit, max(prompt + completion for prompt, completion in sizes))


def rollout_of(prompt_ids: list[int], token_ids: list[int]) -> Rollout:
    return Rollout(
        prompt=Prompt(id="t/train/0", token_ids=prompt_ids, text="?"),
        sample_index=0,
        token_ids=token_ids,
        rollout_logprobs=[-token / 4 for token in token_ids],
        finish_reason="stop",
        policy_version=0,
        seed=0,
    )


def credits_of(rollouts: list[Rollout], *advantages: float) -> list[Credit]:
    """One advantage for the whole completion."""
    return [Credit([value] * len(rollout.token_ids)) for rollout, value in zip(rollouts, advantages, strict=True)]


def test_rollouts_by_hand() -> None:
    rollouts = [rollout_of([1, 2], [3, 4]), rollout_of([5], [6])]
    batch = collate_rollouts(rollouts, [Credit([0.5, -0.5]), Credit([-1.0])], PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [5, 6, PAD, PAD]]
    assert batch.completion_mask.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert batch.advantages.tolist() == [[0, 0, 0.5, -0.5], [0, -1.0, 0, 0]]
    assert batch.rollout_logprobs.tolist() == [[0, 0, -0.75, -1.0], [0, -1.5, 0, 0]]
    assert batch.old_logprobs is batch.ref_logprobs is batch.old_values is batch.returns is None
    assert batch.advantages.dtype == batch.rollout_logprobs.dtype == torch.float32


def test_what_was_measured_stands_on_the_tokens_it_was_measured_at() -> None:
    rollouts = [rollout_of([1, 2], [3, 4]), rollout_of([5], [6])]
    measured = [
        Credit([1.0, 2.0], [0.5, 0.25], Measurement([-1.0, -2.0], [-3.0, -4.0], [8.0, 9.0], last_value=7.0)),
        Credit([3.0], [0.75], Measurement([-5.0], [-6.0], [10.0])),
    ]
    batch = collate_rollouts(rollouts, measured, PAD)
    expected = {
        "old_logprobs": [[0, 0, -1, -2], [0, -5, 0, 0]],
        "ref_logprobs": [[0, 0, -3, -4], [0, -6, 0, 0]],
        "old_values": [[0, 0, 8, 9], [0, 10, 0, 0]],
        "returns": [[0, 0, 0.5, 0.25], [0, 0.75, 0, 0]],
    }
    for name, numbers in expected.items():
        assert getattr(batch, name).tolist() == numbers, name
    without = [Credit(credit.advantages, [], Measurement(credit.measurement.old_logprobs)) for credit in measured]
    batch = collate_rollouts(rollouts, without, PAD)
    assert batch.old_logprobs is not None
    assert batch.ref_logprobs is batch.old_values is batch.returns is None


@pytest.mark.parametrize(
    "second",
    [
        Credit([1.0, 1.0]),  # of another length than the completion
        Credit([1.0], [2.0]),  # a return where the other has none
        Credit([1.0], [], Measurement([-1.0])),
    ],
)
def test_rollouts_that_do_not_agree_on_what_they_have_are_refused(second: Credit) -> None:
    with pytest.raises(AssertionError, match="one number for each completion token"):
        collate_rollouts([rollout_of([1], [2]), rollout_of([3], [4])], [Credit([1.0]), second], PAD)


def test_a_spare_column_is_padding_behind_every_row() -> None:
    rollouts = [rollout_of([1, 2], [3, 4]), rollout_of([5], [6])]
    batch = collate_rollouts(rollouts, credits_of(rollouts, 1.0, 2.0), PAD, spare_column=True)
    plain = collate_rollouts(rollouts, credits_of(rollouts, 1.0, 2.0), PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, PAD], [5, 6, PAD, PAD, PAD]]
    assert not batch.attention_mask[:, -1].any()
    for name in ("input_ids", "attention_mask", "completion_mask", "advantages", "rollout_logprobs"):
        assert torch.equal(getattr(batch, name)[:, :-1], getattr(plain, name)), name


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(st.lists(sizes, min_size=1, max_size=8), st.integers(0, 12), st.booleans())
def test_rollouts_keep_their_tokens_and_numbers_whatever_the_padding(
    shapes: list[tuple[int, int]], extra: int, spare: bool
) -> None:
    rollouts = [
        rollout_of([100 * row + i for i in range(prompt)], [100 * row + 50 + i for i in range(completion)])
        for row, (prompt, completion) in enumerate(shapes)
    ]
    given_credits = [Credit([float(token) for token in rollout.token_ids]) for rollout in rollouts]
    longer = [*rollouts, rollout_of([1] * extra, [2] * 9)] if extra else rollouts  # pads the others
    longer_credits = [*given_credits, Credit([0.0] * 9)] if extra else given_credits
    batch = collate_rollouts(longer, longer_credits, PAD, spare_column=spare)
    for row, rollout in enumerate(rollouts):
        there = batch.attention_mask[row]
        assert batch.input_ids[row][there].tolist() == rollout.prompt.token_ids + rollout.token_ids
        mask = batch.completion_mask[row]
        assert not mask[: len(rollout.prompt.token_ids)].any()
        assert batch.input_ids[row][mask].tolist() == rollout.token_ids
        assert batch.rollout_logprobs[row][mask].tolist() == rollout.rollout_logprobs
        assert batch.advantages[row][mask].tolist() == [float(token) for token in rollout.token_ids]
        assert (batch.advantages[row][~mask] == 0).all()
        assert (batch.rollout_logprobs[row][~mask] == 0).all()


def pair_of(prompt: int, chosen: int, rejected: int, first: int = 1, **rest: Any) -> PairExample:
    beginning = list(range(first, first + prompt))
    better, worse = range(first + 30, first + 30 + chosen), range(first + 60, first + 60 + rejected)
    return PairExample(
        Example([*beginning, *better], [False] * prompt + [True] * chosen),
        Example([*beginning, *worse], [False] * prompt + [True] * rejected),
        **rest,
    )


def test_pairs_by_hand() -> None:
    pairs = [
        pair_of(2, 1, 3, margin=0.5, ref_logprobs=(-1.0, -2.0)),
        pair_of(1, 2, 1, first=100, ref_logprobs=(-3.0, -4.0)),
    ]
    batch = collate_pairs(pairs, PAD)
    assert batch.input_ids.tolist() == [
        [1, 2, 31, PAD, PAD],
        [100, 130, 131, PAD, PAD],
        [1, 2, 61, 62, 63],
        [100, 160, PAD, PAD, PAD],
    ]
    assert batch.completion_mask.sum(1).tolist() == [1, 2, 3, 1]
    assert batch.margins.tolist() == [0.5, 0.0]
    assert batch.num_pairs == 2
    assert batch.ref_logprobs is not None
    assert batch.ref_logprobs.tolist() == [-1.0, -3.0, -2.0, -4.0]
    assert collate_pairs([pairs[0], pair_of(1, 1, 1)], PAD).ref_logprobs is None


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_chosen_and_rejected_rows_are_aligned_and_share_their_prompt(shapes: list[tuple[int, int, int]]) -> None:
    batch = collate_pairs([pair_of(*shape, first=100 * (row + 1)) for row, shape in enumerate(shapes)], PAD)
    size = batch.num_pairs
    assert len(batch.input_ids) == 2 * size
    for row, (prompt, chosen, rejected) in enumerate(shapes):
        for row_of_pair, length in ((row, chosen), (row + size, rejected)):
            mask = batch.completion_mask[row_of_pair]
            assert not mask[:prompt].any()
            assert mask[prompt : prompt + length].all()
            assert int(mask.sum()) == length
            assert int(batch.attention_mask[row_of_pair].sum()) == prompt + length
        assert torch.equal(batch.input_ids[row, :prompt], batch.input_ids[row + size, :prompt])
    assert batch.segment_ids.max() == 1


def test_labeled_examples_by_hand() -> None:
    one = LabeledExample(example_of(1, 1), True, example_of(1, 3), ref_logprobs=(-1.0, -2.0))
    two = LabeledExample(example_of(2, 1, first=7), False, example_of(2, 1, first=7), ref_logprobs=(-3.0, -4.0))
    batch = collate_labeled([one, two], PAD)
    assert batch.input_ids.tolist() == [[1, 2, PAD, PAD], [7, 8, 9, PAD], [1, 2, 3, 4], [7, 8, 9, PAD]]
    assert batch.is_desirable.tolist() == [True, False]
    assert batch.is_desirable.dtype == torch.bool
    assert batch.num_examples == 2
    assert batch.ref_logprobs is not None
    assert batch.ref_logprobs.tolist() == [-1.0, -3.0, -2.0, -4.0]
    assert collate_labeled([one, replace(two, ref_logprobs=None)], PAD).ref_logprobs is None


def test_a_split_keeps_rows_and_drops_columns_of_padding() -> None:
    rollouts = [rollout_of([1], [2]), rollout_of([3, 4], [5, 6, 7]), rollout_of([8], [9, 10])]
    batch = collate_rollouts(rollouts, credits_of(rollouts, 1.0, 2.0, 3.0), PAD)
    batch.old_logprobs = batch.rollout_logprobs - 1
    part = split_rows(batch, [2, 0])
    reordered = [rollouts[2], rollouts[0]]
    expected = collate_rollouts(reordered, credits_of(reordered, 3.0, 1.0), PAD)
    for name in ("input_ids", "attention_mask", "position_ids", "completion_mask", "advantages", "rollout_logprobs"):
        assert torch.equal(getattr(part, name), getattr(expected, name)), name
    assert part.old_logprobs is not None
    assert torch.equal(part.old_logprobs, expected.rollout_logprobs - 1)
    assert split_rows(collate_rollouts(rollouts, credits_of(rollouts, 0.0, 0.0, 0.0), PAD), [1]).old_logprobs is None
