"""Whether a reward accepts the references of the rows that it is to judge by. Run before step 0.

A verifier that rejects its own references teaches the model that right answers are wrong, and the curve only shows a
reward that does not rise: a wrong answer column, a reference in another form, a tolerance, a package that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

from oxrl_core.errors import RewardError
from oxrl_core.rewards.base import Reward, score_rollouts
from oxrl_core.rewards.composite import rewards_of
from oxrl_core.types import Prompt, Rollout, Row, Score

FULL = 1.0 - 1e-9
SHOWN = 160  # characters of a reference in a message


@dataclass(frozen=True)
class Outcome:
    """What a self-test saw."""

    tested: int = 0  # references that were scored
    skipped: int = 0  # rows whose gold completion the reward cannot write


def self_test(reward: Reward, rows: Sequence[Row], timeout_seconds: float) -> Outcome:
    """How many of the rows' references scored full marks; a single one that does not is a RewardError.

    A reward that names no gold completion (`gold` in rewards/base.py), or that somebody else gives, is not tested.
    """
    if reward.name == "composite":
        outcomes = [self_test(part, rows, timeout_seconds) for _, _, part in rewards_of(reward.params["parts"])]
        return Outcome(sum(outcome.tested for outcome in outcomes), sum(outcome.skipped for outcome in outcomes))
    prompts = [prompt_of(row) for row in rows]
    if reward.gold is None or reward.service is not None:
        return Outcome(skipped=len(prompts))
    golden = [(prompt, reward.gold(prompt, **reward.params)) for prompt in prompts]
    rollouts = [rollout_of(prompt, text) for prompt, text in golden if text is not None]
    for rollout, score in zip(rollouts, score_rollouts(reward, rollouts, timeout_seconds), strict=True):
        if score.status != "ok" or score.value < FULL:
            raise _rejected(reward, rollout, score)
    return Outcome(len(rollouts), len(prompts) - len(rollouts))


def rests_on(reward: Reward) -> dict[str, str]:
    """What of this machine the verdicts rest on, by reward: how programs are held, for one. Empty where on nothing."""
    if reward.name == "composite":
        parts = [rests_on(part) for _, _, part in rewards_of(reward.params["parts"])]
        return {name: text for part in parts for name, text in part.items()}
    return {reward.name: reward.rests_on(**reward.params)} if reward.rests_on else {}


def prompt_of(row: Row) -> Prompt:
    """The row as a prompt that no tokenizer has seen."""
    prompt = row.get("prompt", "")
    text = prompt if isinstance(prompt, str) else "\n".join(str(message.get("content", "")) for message in prompt)
    return Prompt(id=row["id"], token_ids=[], text=text, answer=row.get("answer", ""), row=row.get("row", {}))


def rollout_of(prompt: Prompt, text: str) -> Rollout:
    """The text as if the model had said it and stopped."""
    return Rollout(prompt, 0, [], [], "stop", policy_version=0, seed=0, text=text)


def _rejected(reward: Reward, rollout: Rollout, score: Score) -> RewardError:
    verdict = f"score {score.value:g}" if score.status in ("ok", "no_answer") else "no score"
    reason = f" ({score.detail})" if score.detail else ""
    return RewardError(
        f"the reward {reward.name} rejects the reference of its own row: {verdict}, status {score.status}{reason}; "
        f"the completion was {shorten(rollout.text, SHOWN)!r}, the reference "
        f"{shorten(rollout.prompt.answer, SHOWN)!r}",
        where=rollout.prompt.id,
        next_step="check data.train's answer_column and reward.name: `oxrl score` tries a reward on rows by hand",
    )
