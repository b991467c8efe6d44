"""Rewards that compare text with the reference answer."""

from __future__ import annotations

from oxrl_core.rewards.base import reward
from oxrl_core.types import Rollout, Score


def reference(rollout: Rollout) -> str:
    """The reference answer, stripped. Without one there is nothing to compare with: an error, not a score."""
    answer = rollout.prompt.answer.strip()
    if not answer:
        raise ValueError(f"the row {rollout.prompt.id} has no reference answer")
    return answer


@reward("exact")
def exact(rollout: Rollout) -> float:
    """1 where the completion, stripped, is the answer; else 0."""
    return float(rollout.text.strip() == reference(rollout))


@reward("positions")
def positions(rollout: Rollout) -> Score:
    """Share of the answer's characters that stand at their place; stopping right after the last one counts as one more.

    "024" has 4 positions: "024" that stops scores 1, "0249" scores 3/4, "02" that stops scores 2/4.
    """
    answer = reference(rollout)
    right = sum(given == wanted for given, wanted in zip(rollout.text, answer, strict=False))
    # A special token in the middle is not in the text. Where each token is a character, the count of tokens betrays it.
    hidden = rollout.finish_reason == "stop" and len(rollout.token_ids) - 1 > len(rollout.text)
    stopped = rollout.finish_reason == "stop" and len(rollout.text) == len(answer) and not hidden
    num_positions = len(answer) + 1
    parts = {"characters": right / num_positions, "stopped": stopped / num_positions}
    return Score((right + stopped) / num_positions, parts=parts)
