"""A verdict for models that know nothing: random weights get some of it, and can learn to get more within seconds."""

from __future__ import annotations

from oxrl_core.types import Rollout


def share_of_letters(rollout: Rollout) -> float:
    """Letters among the characters of a completion."""
    return sum(character.isalpha() for character in rollout.text) / max(len(rollout.text), 1)
