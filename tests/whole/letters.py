"""A reward of our own for models that know nothing: the share of letters in a completion."""

from __future__ import annotations

from oxrl_core.types import Rollout


def letters(rollout: Rollout) -> float:
    """Letters among the characters."""
    return sum(character.isalpha() for character in rollout.text) / max(len(rollout.text), 1)
