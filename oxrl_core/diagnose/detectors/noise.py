"""Chance in the verdicts where no completion comes twice: what short answers and their references leave unexplained."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.rows import rows_of
from oxrl_core.diagnose.samples import Sample
from oxrl_core.diagnose.trends import correlation

SHORT = 24  # characters of a reference, up to which its places can be compared one by one
LONGER = 2  # times: completions beyond that say more than their answer
CELL = 12  # completions that agree with their references in the same places, before they tell a usual verdict
CELLS, JUDGED = 3, 200
KNOWN = 0.03  # share of the variance that the agreement must explain, so that it is what the verdict asks for
RANGE = 0.05  # of all rewards: verdicts that are closer are one
OFF_LEAST, OFF_MOST = 0.08, 0.75  # share of the verdicts that are not the usual one of their cell
TOLD = 0.15  # correlation with something in the text, or with the step: then that is what the verdict asks for too
WORDS = 40  # commonest tokens that are looked at


@detector("verdicts that nothing explains")
def unexplained(facts: RunFacts) -> Iterator[Seen]:
    """Answers that agree with their references in the very same places get one verdict mostly, and others by chance."""
    if not facts.is_rl:
        return
    answers = {row.id: row.answer for row in rows_of(facts, "train") if 1 < len(row.answer) <= SHORT}
    judged = [
        sample
        for sample in facts.samples.all()
        if sample.has_verdict and len(sample.completion) <= LONGER * len(answers.get(sample.prompt_id, ""))
    ]
    if len(judged) < JUDGED or any(len(sample.parts) > 1 for sample in judged[:50]):
        return
    # Where every token is a character, those of the texts that have as many of both; the others, as the end, are none.
    bodies = [s.tokens[: len(s.completion)] for s in judged if 0 <= len(s.tokens) - len(s.completion) <= _ends(s)]
    shown = {token for body in bodies for token in body}
    cells: dict[tuple[object, ...], list[Sample]] = defaultdict(list)
    for sample in judged:
        cells[_agreement(sample, answers[sample.prompt_id], shown)].append(sample)
    whole = [cell for cell in cells.values() if len(cell) >= CELL]
    kept = [sample for cell in whole for sample in cell]
    scores = [sample.score or 0.0 for sample in kept]
    width = max(scores, default=0.0) - min(scores, default=0.0)
    if len(whole) < CELLS or len(kept) < JUDGED or width < 1e-9:
        return
    usual = [_usual(cell, RANGE * width) for cell in whole]
    off = [
        abs((s.score or 0.0) - value) > RANGE * width for cell, value in zip(whole, usual, strict=True) for s in cell
    ]
    share = statistics.fmean(off)
    if not OFF_LEAST <= share <= OFF_MOST or _explained(whole) < KNOWN or len(set(usual)) < 2:
        return
    # In every large cell: a verdict that asks for something else besides does so in some of them only.
    shares = [
        statistics.fmean(abs((s.score or 0.0) - value) > RANGE * width for s in cell)
        for cell, value in zip(whole, usual, strict=True)
        if len(cell) >= 2 * CELL
    ]
    if len(shares) < 2 or min(shares) < 0.25 * share or is_told(kept, off):
        return
    shown = [sample for sample, is_off in zip(kept, off, strict=True) if is_off][:3]
    told = [seen_by("verdicts other than is usual for these places", share, facts.step, [s.name for s in shown])]
    told.append(seen_by("completions that were compared", len(kept)))
    told += [
        seen_by("one of them", f"{s.completion[:40]!r} for {answers[s.prompt_id]!r} got {s.score:g}", s.step)
        for s in shown[:2]
    ]
    summary = f"{share:.0%} of the completions got another verdict than those that agree with their references in the "
    summary += "same places, and nothing in their texts says why: there is chance in the verdicts"
    advice = (
        "score a few completions several times by hand (`oxrl score`): a judge at temperature 0 says one thing once"
    )
    yield Seen("reward_inconsistent", 0.82, summary, "error" if share > 0.2 else "warning", told, advice, before=1)


def _ends(sample: Sample) -> int:
    """1 where the last token is an end, which is no text."""
    return int(sample.finish_reason == "stop")


def _agreement(sample: Sample, answer: str, shown: set[int]) -> tuple[object, ...]:
    """In which places it agrees with its reference, how much longer it is, and how it ended."""
    text = sample.completion
    same = tuple(one == two for one, two in zip(text, answer, strict=False))
    hidden = tuple((at, token) for at, token in enumerate(sample.tokens) if token not in shown)
    return same, len(text) - len(answer), sample.finish_reason, hidden if len(sample.tokens) > len(text) else ()


def _usual(cell: Sequence[Sample], near: float) -> float:
    """The verdict that most of these are near to."""
    values = [sample.score or 0.0 for sample in cell]
    return max(sorted(set(values)), key=lambda value: sum(abs(other - value) <= near for other in values))


def _explained(cells: Sequence[Sequence[Sample]]) -> float:
    """The share of the variance of the verdicts that the cells explain."""
    values = [[sample.score or 0.0 for sample in cell] for cell in cells]
    every = [value for cell in values for value in cell]
    total = statistics.pvariance(every) * len(every)
    inside = sum(statistics.pvariance(cell) * len(cell) for cell in values)
    return 1 - inside / total if total > 0 else 0.0


def is_told(kept: Sequence[Sample], off: Sequence[bool]) -> bool:
    """Whether something in the texts, the prompt or the time goes with the unusual verdicts."""
    marks = [float(mark) for mark in off]
    common = [token for token, _ in Counter(token for s in kept for token in set(s.tokens)).most_common(WORDS)]
    features: list[list[float]] = [
        [float(sample.step) for sample in kept],
        [float(sample.length) for sample in kept],
        [float(sample.index) for sample in kept],
        [float(len(sample.prompt)) for sample in kept],
        *([float(token in sample.tokens) for sample in kept] for token in common),
        *([float(sample.tokens[:1] == (token,)) for sample in kept] for token in common[:20]),
        *([float(sample.tokens[-1:] == (token,)) for sample in kept] for token in common[:20]),
    ]
    if any(abs(correlation(list(zip(feature, marks, strict=True)))) > TOLD for feature in features):
        return True
    # Rows of which all verdicts are unusual, and others of which none is: the rows say it.
    by_row: dict[str, list[float]] = defaultdict(list)
    for sample, mark in zip(kept, marks, strict=True):
        by_row[sample.prompt_id].append(mark)
    often = [values for values in by_row.values() if len(values) >= 4]
    pure = sum(len(set(values)) == 1 for values in often)
    share = statistics.fmean(marks)
    expected = statistics.fmean([share ** len(v) + (1 - share) ** len(v) for v in often]) if often else 0.0
    return len(often) >= 5 and pure / len(often) > expected + 0.4
