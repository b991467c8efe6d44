"""Tensors of examples and rollouts, by hand and by properties."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.data.collate import collate_examples, collate_rollouts, split_rows
from oxrl_core.data.render import Example
from oxrl_core.types import Prompt, Rollout, TokenBatch

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


def test_rollouts_by_hand() -> None:
    batch = collate_rollouts([rollout_of([1, 2], [3, 4]), rollout_of([5], [6])], [0.5, -1.0], PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [5, 6, PAD, PAD]]
    assert batch.completion_mask.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert batch.advantages.tolist() == [[0, 0, 0.5, 0.5], [0, -1.0, 0, 0]]
    assert batch.rollout_logprobs.tolist() == [[0, 0, -0.75, -1.0], [0, -1.5, 0, 0]]
    assert batch.old_logprobs is None
    assert batch.advantages.dtype == batch.rollout_logprobs.dtype == torch.float32


def test_a_split_keeps_rows_and_drops_columns_of_padding() -> None:
    rollouts = [rollout_of([1], [2]), rollout_of([3, 4], [5, 6, 7]), rollout_of([8], [9, 10])]
    batch = collate_rollouts(rollouts, [1.0, 2.0, 3.0], PAD)
    batch.old_logprobs = batch.rollout_logprobs - 1
    part = split_rows(batch, [2, 0])
    expected = collate_rollouts([rollouts[2], rollouts[0]], [3.0, 1.0], PAD)
    for name in ("input_ids", "attention_mask", "position_ids", "completion_mask", "advantages", "rollout_logprobs"):
        assert torch.equal(getattr(part, name), getattr(expected, name)), name
    assert part.old_logprobs is not None
    assert torch.equal(part.old_logprobs, expected.rollout_logprobs - 1)
    assert split_rows(collate_rollouts(rollouts, [0.0] * 3, PAD), [1]).old_logprobs is None
