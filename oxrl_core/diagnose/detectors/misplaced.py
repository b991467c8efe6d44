"""Verdicts that go with another completion, or another row's reference, than their own; or with nothing at all."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.rows import rows_of
from oxrl_core.diagnose.samples import Sample
from oxrl_core.diagnose.trends import correlation

SHORT, LONGER = 24, 3  # characters of a reference; times as long a completion may be
JUDGED, MANY = 300, 800  # completions; before it can be said that nothing explains their verdicts
GOES_WITH, LESS = 0.4, 0.5  # correlation with another one's agreement; what of it the own agreement may have
NOISE = 4.0  # standard errors of a correlation of nothing
SPREAD = 0.15  # of the range: what verdicts must vary by, before it is a riddle what they go with
WORDS = 40


@detector("whose verdicts they are")
def misplaced(facts: RunFacts) -> Iterator[Seen]:
    """Rewards that go with how right a neighbour is: they were given to the wrong completions."""
    steps = _judged(facts)
    judged = [sample for step in steps for sample, _ in step]
    if len(judged) < JUDGED or len({round(sample.score or 0.0, 9) for sample in judged}) < 2:
        return
    own = correlation([(s.score or 0.0, _agreement(s.completion, answer)) for step in steps for s, answer in step])
    size = int(facts.setting("rollout.group_size", 1) or 1)
    found: list[tuple[float, str]] = []
    for shift in sorted({1, -1, size, -size, *range(2, size), *range(-size + 1, -1)}):
        others = [
            (
                s.score or 0.0,
                _agreement(step[(at + shift) % len(step)][0].completion, step[(at + shift) % len(step)][1]),
            )
            for step in steps
            for at, (s, _) in enumerate(step)
        ]
        found.append((correlation(others), f"the completion {abs(shift)} {'behind' if shift > 0 else 'before'} it"))
    for shift in (size, -size):
        others = [
            (s.score or 0.0, _agreement(s.completion, step[(at + shift) % len(step)][1]))
            for step in steps
            for at, (s, _) in enumerate(step)
        ]
        found.append((correlation(others), f"the reference of the {'next' if shift > 0 else 'previous'} prompt"))
    best, whose = max(found)
    if best < GOES_WITH or own > LESS * best:
        return
    told = [seen_by(f"correlation of the reward with {whose}", best), seen_by("with its own completion", own)]
    told.append(seen_by("completions that were compared", len(judged)))
    summary = (
        f"rewards go with {whose} (correlation {best:.2f}), not with their own ({own:.2f}): they are given to the "
    )
    summary += "wrong completions" if "completion" in whose else "wrong rows"
    advice = "look at what puts completions, references and verdicts together: one list is in another order"
    cause = "reward_inconsistent" if "completion" in whose else "contradictory_rows"
    yield Seen(cause, 0.92, summary, evidence=told, next=advice, before=1)


@detector("what verdicts go with")
def unrelated(facts: RunFacts) -> Iterator[Seen]:
    """Verdicts on short answers that vary widely, and with nothing: not the reference, the length, nor any word."""
    steps = _judged(facts)
    pairs = [pair for step in steps for pair in step]
    reward = facts.trend("reward/mean")
    if len(pairs) < MANY or reward is None or reward.rises or reward.falls:
        return
    scores = [sample.score or 0.0 for sample, _ in pairs]
    width = max(scores) - min(scores)
    if width < 1e-9 or statistics.pstdev(scores) < SPREAD * width or any(len(s.parts) > 1 for s, _ in pairs[:50]):
        return
    common = [token for token, _ in Counter(t for s, _ in pairs for t in set(s.tokens)).most_common(WORDS)]
    groups: dict[tuple[int, str], list[float]] = {}
    for sample, _ in pairs:
        groups.setdefault((sample.step, sample.prompt_id), []).append(sample.score or 0.0)
    # What a whole prompt gets is no chance within it.
    inside = statistics.fmean(statistics.pvariance(group) for group in groups.values())
    if inside < 0.5 * statistics.pvariance(scores):
        return
    features: list[list[float]] = [
        [_agreement(sample.completion, answer) for sample, answer in pairs],
        [float(sample.length) for sample, _ in pairs],
        [float(sample.step) for sample, _ in pairs],
        [float(sample.index) for sample, _ in pairs],
        [float(len(set(sample.tokens))) for sample, _ in pairs],
        *([float(token in sample.tokens) for sample, _ in pairs] for token in common),
        *([float(sample.tokens[:1] == (token,)) for sample, _ in pairs] for token in common[:20]),
        *([float(sample.tokens[-1:] == (token,)) for sample, _ in pairs] for token in common[:20]),
    ]
    strongest = max(abs(correlation(list(zip(feature, scores, strict=True)))) for feature in features)
    if strongest > NOISE / len(pairs) ** 0.5:
        return
    told = [seen_by("strongest correlation with anything in the texts", strongest)]
    told.append(seen_by("that of chance, at most", NOISE / len(pairs) ** 0.5))
    told.append(seen_by("completions that were compared", len(pairs)))
    summary = (
        f"the rewards of {len(pairs)} completions go with nothing: not with their references, their length or any "
    )
    summary += "word: they may be chance"
    advice = "score one completion several times by hand (`oxrl score`)"
    yield Seen("reward_inconsistent", 0.75, summary, "error", told, advice, before=1)


def _judged(facts: RunFacts) -> list[list[tuple[Sample, str]]]:
    """The judged completions of each step with their row's reference, in the order of the record; short ones only."""
    if not facts.is_rl:
        return []
    answers = {row.id: row.answer for row in rows_of(facts, "train") if 1 < len(row.answer) <= SHORT}
    steps: list[list[tuple[Sample, str]]] = []
    for step in facts.samples.steps():
        samples = facts.samples.of_step(step)
        known = [(sample, answers.get(sample.prompt_id, "")) for sample in samples if sample.has_verdict]
        if len(known) == len(samples) > 1 and all(
            answer and len(sample.completion) <= LONGER * len(answer) for sample, answer in known
        ):
            steps.append(known)
    return steps


def _agreement(text: str, answer: str) -> float:
    """The share of the places of the reference that the text has the same character in."""
    return sum(one == two for one, two in zip(text, answer, strict=False)) / len(answer)
