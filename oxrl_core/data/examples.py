"""Completions to learn from, drawn or given, as rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from oxrl_core.types import Example, Prompt, Rollout


def as_example(rollout: Rollout) -> Example:
    """A drawn completion to learn from, token by token as it was drawn."""
    return _example(rollout.prompt, rollout.token_ids)


def row_example(prompt: Prompt) -> Example:
    """The completion that the data gives for the prompt."""
    return _example(prompt, prompt.completion_ids)


def _example(prompt: Prompt, completion_ids: Sequence[int]) -> Example:
    mask = [False] * len(prompt.token_ids) + [True] * len(completion_ids)
    return Example([*prompt.token_ids, *completion_ids], mask, prompt.media)
