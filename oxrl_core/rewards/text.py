"""Rewards that compare text with the reference answer."""

from __future__ import annotations

from oxrl_core.rewards.base import reward
from oxrl_core.types import Prompt, Rollout, Score


def reference(rollout: Rollout) -> str:
    """The reference answer, stripped. Without one there is nothing to compare with: an error, not a score."""
    answer = rollout.prompt.answer.strip()
    if not answer:
        raise ValueError(f"the row {rollout.prompt.id} has no reference answer")
    return answer


def the_reference(prompt: Prompt) -> str | None:
    """The completion that is right if anything is: the reference itself."""
    return prompt.answer.strip() or None


@reward("stopped")
def stopped(rollout: Rollout) -> float:
    """1 where the model stopped by itself, 0 where it was cut off."""
    return float(rollout.finish_reason == "stop")


@reward("exact", needs_answer=True, gold=the_reference)
def exact(rollout: Rollout) -> float:
    """1 where the completion, stripped, is the answer; else 0."""
    return float(rollout.text.strip() == reference(rollout))


@reward("positions", needs_answer=True, gold=the_reference)
def positions(rollout: Rollout) -> Score:
    """Share of the answer's characters that stand at their place; EOS right behind the last one counts as one more.

    "024" has 4 positions: "024" with EOS scores 1, "0249" scores 3/4, "02" with EOS 2/4. A completion that goes on
    after an EOS (rollout.stop_at_eos: false) is compared position by position like any other.
    """
    answer = reference(rollout)
    if len(rollout.prompt.answer_ids) == len(answer) + 1:
        # Each character is a token: only the ids show special tokens, which the text leaves out wherever they stand.
        given = rollout.token_ids[: len(answer) + 1]
        matches = [token == wanted for token, wanted in zip(given, rollout.prompt.answer_ids, strict=False)]
        right, stopped = sum(matches[: len(answer)]), sum(matches[len(answer) :])
    else:
        right = sum(character == wanted for character, wanted in zip(rollout.text, answer, strict=False))
        stopped = int(rollout.finish_reason == "stop" and len(rollout.text) == len(answer))
    num_positions = len(answer) + 1
    parts = {"characters": right / num_positions, "stopped": stopped / num_positions}
    return Score((right + stopped) / num_positions, parts=parts)
