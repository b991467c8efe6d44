"""Completions to learn from, drawn or given, as rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from oxrl_core.types import Example, Prompt, Rollout


def as_example(rollout: Rollout) -> Example:
    """A drawn completion to learn from, token by token as it was drawn."""
    return _example(rollout.prompt.token_ids, rollout.token_ids)


def row_example(prompt: Prompt) -> Example:
    """The completion that the data gives for the prompt."""
    return _example(prompt.token_ids, prompt.completion_ids)


def _example(prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Example:
    return Example([*prompt_ids, *completion_ids], [False] * len(prompt_ids) + [True] * len(completion_ids))
