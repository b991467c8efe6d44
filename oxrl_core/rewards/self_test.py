"""Whether a reward accepts the references of the rows that it is to judge by. Run before step 0.

A verifier that rejects its own references teaches the model that right answers are wrong, and the curve only shows a
reward that does not rise: a wrong answer column, a reference in another form, a tolerance, a package that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from textwrap import shorten

from oxrl_core.errors import RewardError
from oxrl_core.rewards.base import Reward, close_workers, score_rollouts
from oxrl_core.rewards.composite import rewards_of
from oxrl_core.rewards.own import Travelling, form_of
from oxrl_core.types import Prompt, Rollout, Row, Score

FULL = 1.0 - 1e-9
SHOWN = 160  # characters of a reference in a message
TRIAL_SECONDS = 10.0  # for the trial of a reward of somebody's own: a slow one must not keep the run from starting
FEW = 4  # rows with verdicts on both references: fewer say nothing
SAME = 1e-9
MANY = 0.25  # share of the rows
# The words of a doubt, by which a diagnosis knows what it is about.
LESS, NOTHING, NO_MORE = "less than", "nothing for", "no more than"


@dataclass(frozen=True)
class Outcome:
    """What a self-test saw."""

    tested: int = 0  # references that were scored
    skipped: int = 0  # rows whose gold completion the reward cannot write
    doubts: str = ""  # of a reward of somebody's own: what speaks against its verdicts on references; not proof


def self_test(reward: Reward, rows: Sequence[Row], timeout_seconds: float) -> Outcome:
    """How many of the rows' references scored full marks; a single one that does not is a RewardError.

    A reward that names no gold completion (`gold` in rewards/base.py), or that somebody else gives, is not tested; one
    of somebody's own is tried on plain references, which it may well want in another form: that is a doubt, no error.
    """
    return _test(reward, rows, timeout_seconds, 1.0)


def _test(reward: Reward, rows: Sequence[Row], timeout_seconds: float, weight: float) -> Outcome:
    if reward.name == "composite":
        parts = rewards_of(reward.params["parts"])
        outcomes = [_test(part, rows, timeout_seconds, weight * share) for _, share, part in parts]
        tested, skipped = sum(one.tested for one in outcomes), sum(one.skipped for one in outcomes)
        return Outcome(tested, skipped, "; ".join(one.doubts for one in outcomes if one.doubts))
    prompts = [prompt_of(row) for row in rows]
    if reward.gold is None or reward.service is not None:
        doubts = _doubts(reward, prompts, min(timeout_seconds, TRIAL_SECONDS), weight) if _is_own(reward) else ""
        return Outcome(skipped=len(prompts), doubts=doubts)
    golden = [(prompt, reward.gold(prompt, **reward.params)) for prompt in prompts]
    rollouts = [rollout_of(prompt, text) for prompt, text in golden if text is not None]
    for rollout, score in zip(rollouts, score_rollouts(reward, rollouts, timeout_seconds), strict=True):
        if score.status != "ok" or score.value < FULL:
            raise _rejected(reward, rollout, score)
    return Outcome(len(rollouts), len(prompts) - len(rollouts))


def _is_own(reward: Reward) -> bool:
    """Whether it is somebody's own function of texts: nothing that is judged elsewhere, or by tokens."""
    function = reward.function
    if reward.make_service is not None or function.__module__.startswith("oxrl_core."):
        return False
    form = function.form if isinstance(function, Travelling) else form_of(function)
    return form is None or form.kind != "tensor"


def _doubts(reward: Reward, prompts: Sequence[Prompt], timeout_seconds: float, weight: float) -> str:
    """What speaks against the verdicts on references; empty where nothing does, or too few could be had.

    Rows are tried two by two, each with both references: what a reward pays for a text alone (its length, its form)
    then adds up to nothing, whatever the references are. As many calls as there are rows at most.
    """
    rollouts = [
        Rollout(prompt, place, [], [], "stop", policy_version=0, seed=0, text=text)
        for one, two in _crossed(prompts)
        for prompt, other in ((one, two), (two, one))
        for place, text in enumerate((prompt.answer, other.answer))
    ]
    if len(rollouts) < 2 * FEW:
        return ""
    scores = score_rollouts(reward, rollouts, timeout_seconds)
    close_workers()  # one that counts its calls, or keeps what it saw, begins anew with the run
    paid = [
        (weight * own.value, weight * other.value)
        for own, other in zip(scores[::2], scores[1::2], strict=True)
        if {own.status, other.status} <= {"ok", "no_answer"}
    ]
    if len(paid) < FEW:
        return ""
    own, others = fmean(one for one, _ in paid), fmean(other for _, other in paid)
    told = f"{len(paid)} rows (mean {own:.3g}, of other rows' references {others:.3g})"
    less = [one for one, other in paid if one < other - SAME]
    if len(less) > len(paid) / 2 and own < others - SAME:
        return f"the reward {reward.name} pays the references of {len(less)} of {told} {LESS} those of other rows"
    values = [value for pair in paid for value in pair]
    if max(values) - min(values) < SAME:
        said = f"the reward {reward.name} pays {NOTHING} any reference of {told}: it may want them in another form"
        return said if weight * values[0] <= 0 else ""
    best = max(one for one, _ in paid)
    short = [one for one, other in paid if one <= other + SAME and one < best - SAME]
    if own > others + SAME and len(short) >= max(2, MANY * len(paid)):
        return f"the reward {reward.name} pays the references of {len(short)} of {told} {NO_MORE} those of other rows"
    return ""


def _crossed(prompts: Sequence[Prompt]) -> list[tuple[Prompt, Prompt]]:
    """Pairs of rows with different references, a quarter as many as there are rows."""
    rest = [prompt for prompt in prompts if prompt.answer.strip()]
    pairs: list[tuple[Prompt, Prompt]] = []
    while rest and len(pairs) < len(prompts) // 4:
        one = rest.pop(0)
        place = next((at for at, two in enumerate(rest) if two.answer.strip() != one.answer.strip()), None)
        if place is not None:
            pairs.append((one, rest.pop(place)))
    return pairs


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
