"""What the reward makes of the rows' own references: doubts before the first step, and what became of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.detectors.noise import is_told
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.rows import rows_of
from oxrl_core.diagnose.samples import Sample
from oxrl_core.rewards.self_test import LESS, NOTHING

NEAR_TOP = 0.7  # of the best reward: a reward that is found as often as that is no riddle
HELD = 0.8  # of the best reward: completions that hold their reference get as much where that is what is asked for
SOME = 10  # completions
MODE = 0.1  # of the range of rewards: verdicts that are closer are one
OFF, OFF_COUNTED = 0.06, 6  # share and number of references with another verdict than most: of few it is chance


@detector("doubts about the references")
def doubted(facts: RunFacts) -> Iterator[Seen]:
    """What the trial before step 0 said of a reward of somebody's own, where the rewards do not speak against it."""
    events = [event for event in facts.events if event.get("code") == "verifier_rejects_references"]
    reward = facts.trend("reward/mean")
    if not events or not facts.is_rl:
        return
    said = str(events[0].get("message", ""))
    judged = [sample for sample in facts.samples.all() if sample.has_verdict]
    # Where no verdict was recorded, of a verdict as they usually are.
    best = max((sample.score or 0.0 for sample in judged), default=1.0)
    low = min((sample.score or 0.0 for sample in judged), default=0.0)
    answers = {row.id: row.answer.strip() for row in rows_of(facts, "train") if row.answer.strip()}
    holding = [s.score or 0.0 for s in judged if answers.get(s.prompt_id, "\0") in s.completion]
    told = [seen_by("before step 0", said[:300])]
    told += (
        [seen_by("highest reward", best), seen_by("reward/mean, last third", reward.last, facts.step)] if reward else []
    )
    if holding:
        told.append(seen_by("mean reward of completions that hold their reference", statistics.fmean(holding)))
    level = (reward.last - low) / (best - low) if reward and best > low else 0.0
    # It is another form that is asked for, and whoever writes the reference in it is paid.
    is_form = len(holding) >= SOME and statistics.fmean(holding) - low > HELD * (best - low)
    if LESS in said:
        yield Seen("verifier_rejects_references", 0.6 if is_form else 0.88, said[:200],
                   "warning" if is_form else "error", told, before=1)  # fmt: skip
    elif not is_form and level < NEAR_TOP:
        # A reward that is never above nothing, as a penalty, has nothing that it could have paid.
        is_penalty = NOTHING in said and best <= 0 and low < 0
        if not is_penalty:
            summary = f"{said[:200]}; the run came to {level:.0%} of the best reward"
            confidence = 0.75 if NOTHING in said else 0.6
            yield Seen("verifier_rejects_references", confidence, summary, "warning", told, before=1)


@detector("verdicts on completions that are the reference")
def by_chance(facts: RunFacts) -> Iterator[Seen]:
    """The very reference of the row gets full marks in most cases and something else in others: a verdict of chance."""
    if not facts.is_rl:
        return
    answers = {row.id: row.answer.strip() for row in rows_of(facts, "train") if row.answer.strip()}
    judged = [sample for sample in facts.samples.all() if sample.has_verdict and sample.prompt_id in answers]
    right = [sample for sample in judged if sample.completion.strip() == answers[sample.prompt_id]]
    # Their end counts too: what is cut off, or goes on, may be paid otherwise.
    right = [sample for sample in right if sample.finish_reason == "stop" and len(sample.parts) < 2]
    if len(right) < 3 * OFF_COUNTED:
        return
    scores = [sample.score or 0.0 for sample in judged]
    width = max(scores) - min(scores)
    usual = statistics.median(sample.score or 0.0 for sample in right)
    marks = [abs((sample.score or 0.0) - usual) > MODE * width for sample in right]
    off = [sample for sample, mark in zip(right, marks, strict=True) if mark]
    if width < 1e-9 or len(off) < max(OFF_COUNTED, OFF * len(right)) or _at_one_time(right, marks):
        return
    # Rows that are always judged so are another matter: of them a verifier may not know the form.
    by_row: dict[str, set[bool]] = {}
    for sample, mark in zip(right, marks, strict=True):
        by_row.setdefault(sample.prompt_id, set()).add(mark)
    repeated = [row for row, kinds in by_row.items() if len(kinds) > 1]
    if is_told(right, marks):
        return  # a style, a length or a time: that is paid besides
    told = [seen_by("completions that are exactly their row's reference", len(right))]
    told.append(
        seen_by("of them with another verdict than most", len(off) / len(right), samples=[s.name for s in off[:3]])
    )
    told.append(seen_by("the usual verdict", usual))
    told += [seen_by("rows whose reference got both", len(repeated))] if repeated else []
    told.append(seen_by("one of them", f"{off[0].prompt[-40:]!r} -> {off[0].completion[:60]!r}: {off[0].score:g}"))
    summary = f"{len(off)} of {len(right)} completions that are exactly their row's reference got another verdict than "
    summary += f"the usual {usual:.3g}: there is chance in the verdicts"
    yield Seen(
        "reward_inconsistent", 0.88, summary, "error" if len(off) > 0.15 * len(right) else "warning", told, before=1
    )


def _at_one_time(right: Sequence[Sample], marks: Sequence[bool]) -> bool:
    """Whether all the other verdicts lie in steps of their own: then something changed, and it is not chance."""
    steps = {sample.step for sample, mark in zip(right, marks, strict=True) if mark}
    usual = [sample for sample, mark in zip(right, marks, strict=True) if sample.step in steps and not mark]
    return len(usual) < 0.25 * sum(marks)
