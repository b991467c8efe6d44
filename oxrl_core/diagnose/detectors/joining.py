"""Whether the texts of a row belong together: answers to prompts, rejected to chosen ones; and how alike rows are."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.rows import KnownRow, rows_of
from oxrl_core.diagnose.samples import commonest

ENOUGH = 30  # rows
LOOKED_AT = 2000  # rows of which likeness is counted
OTHERS = 5  # other rows that an answer is compared with, far away: a join that is off by a row is one with neighbours
RELATED, SURE = 0.02, 4.0  # likeness of held-out answers to their own prompts, above that to others; standard errors
ALIKE = 1.5  # times: how much longer prompts of one part may be than of the other, to be compared
SWAPPED = 0.75  # share of the pairs from which on it is the rule
SWAPPED_SOME = 0.12  # share of the pairs: annotators disagree about as many
LOST_SHARE = 0.7  # of the held-out likeness: less means that rows were joined wrongly
DESIRABLE, UNDESIRABLE = ("True", "1", "1.0"), ("False", "0", "0.0")  # labels as rows have them
SAME_PAIRS = 0.1  # share of pairs of two equal completions
EMPTY = 0.05  # share of rows without a prompt or a completion
ONE_ANSWER = 0.8  # share of the rows with one and the same completion, to different prompts
LEARNED = 0.85  # of full marks, early: answers that do not belong to their prompts cannot be found
WEIGHTY, WEIGHTY_TIMES = 0.05, 20  # share of all rows that one row makes up, and how often it stands there


@detector("answers and the prompts that they belong to")
def joined(facts: RunFacts) -> Iterator[Seen]:
    """Held-out answers share words with their own prompts; the training rows' do so less: shuffled, or swapped."""
    rows, held = rows_of(facts, "train"), rows_of(facts, "eval")
    if not _are_alike(rows, held) or (facts.state == "failed" and not facts.step):
        return  # what nobody has learned from is not what was wrong
    swapped = _swapped(rows, held)
    if swapped:
        yield swapped
        return
    own = _excess(_right_answers(rows, is_rl=facts.is_rl))
    known = _excess(_right_answers(held, is_rl=facts.is_rl))
    if own is None or known is None or known[0] < max(RELATED, SURE * known[1]):
        return  # answers of this kind do not repeat words of their prompts, or too few rows say so
    lost = known[0] - own[0]
    if own[0] > LOST_SHARE * known[0] or lost < SURE * math.hypot(own[1], known[1]) or _was_learned(facts):
        return
    told = [seen_by("likeness to the own prompt, above that to others: held-out rows", known[0])]
    told.append(seen_by("the same of training rows", own[0]))
    bad, bad_known = _excess(_rejected(rows)), _excess(_rejected(held))
    if bad and bad_known and bad[0] - bad_known[0] > SURE * math.hypot(bad[1], bad_known[1]):
        share = min(1.0, lost / max(known[0] - bad_known[0], lost))
        told.append(seen_by("the same of rejected texts in training, less held out", bad[0] - bad_known[0]))
        summary = (
            f"in about {share:.0%} of the training pairs the rejected text is the one that belongs to the prompt: "
        )
        summary += "chosen and rejected are swapped there"
        cause = "learns_backwards" if share > SWAPPED else "contradictory_rows"
        yield Seen(cause, 0.9, summary, evidence=told, before=1)
        return
    share = min(1.0, lost / known[0])
    summary = f"held-out answers have words of their own prompts, training answers lack them in about {share:.0%} of "
    summary += "the rows: answers and prompts do not belong together"
    yield Seen("contradictory_rows", 0.9, summary, evidence=told, before=1)


def _swapped(rows: Sequence[KnownRow], held: Sequence[KnownRow]) -> Seen | None:
    """Pairs whose rejected text has more of the prompt than the chosen one, where held-out pairs say otherwise."""
    own, known = _preferred(rows), _preferred(held)
    if own is None or known is None or abs(known.gain) < max(RELATED, SURE * known.error):
        return None
    share = (1 - own.gain / known.gain) / 2
    # The error of a share is that of both sides, in units of the difference that a whole swap would make.
    error = math.hypot(own.error, known.error) / (2 * abs(known.gain))
    # Of a swap the rejected texts gain what the chosen ones lose; of a wrong join they stay as they were.
    gained = (own.rejected - known.rejected) / known.gain
    if share < max(SWAPPED_SOME, SURE * error) or gained < 0.5 * share:
        return None
    told = [seen_by("chosen less rejected, likeness to the prompt: held-out pairs", known.gain)]
    told.append(seen_by("the same of training pairs", own.gain))
    summary = f"in about {min(share, 1.0):.0%} of the training pairs the rejected text is the one that belongs to the "
    summary += "prompt: chosen and rejected are swapped there"
    cause = "learns_backwards" if share > SWAPPED else "contradictory_rows"
    return Seen(cause, 0.9, summary, evidence=told, before=1)


@dataclass(frozen=True)
class _Likeness:
    """How much more of the chosen than of the rejected texts stands in their prompts."""

    gain: float
    error: float  # standard error of the gain
    rejected: float  # how much of the rejected texts stands there


def _preferred(rows: Sequence[KnownRow]) -> _Likeness | None:
    pairs = [row for row in rows[:LOOKED_AT] if row.rejected and row.completion and row.prompt]
    pairs = [row for row in pairs if row.completion.strip() != (row.rejected or "").strip()]
    if len(pairs) < ENOUGH:
        return None
    by_word = statistics.median(len(row.completion.split()) for row in pairs) >= 3
    bags = [(_bag(row.prompt, by_word), row) for row in pairs]
    bad = [_shared(prompt, _bag(row.rejected or "", by_word)) for prompt, row in bags]
    gains = [
        _shared(prompt, _bag(row.completion, by_word)) - less for (prompt, row), less in zip(bags, bad, strict=True)
    ]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    return _Likeness(statistics.fmean(gains), error, statistics.fmean(bad))


@detector("pairs of equal completions")
def same_pairs(facts: RunFacts) -> Iterator[Seen]:
    pairs = [row for row in rows_of(facts, "train") if row.rejected is not None]
    same = [row for row in pairs if row.completion.strip() == (row.rejected or "").strip()]
    if len(pairs) < ENOUGH or len(same) < SAME_PAIRS * len(pairs):
        return
    share = len(same) / len(pairs)
    told = [seen_by("pairs whose completions are equal", share, samples=[row.id for row in same[:3]])]
    told.append(seen_by("one of them", f"{same[0].prompt[-60:]!r}: {same[0].completion[:60]!r} twice"))
    summary = f"{len(same)} of {len(pairs)} pairs prefer a text to itself: they teach nothing and are left out"
    yield Seen("rows_lost", 0.8, summary, "error" if share > 0.3 else "warning", told, before=1)


@detector("labels that are all the same")
def one_label(facts: RunFacts) -> Iterator[Seen]:
    labels = Counter(row.verdict for row in rows_of(facts, "train") if row.question and row.rejected is None)
    total = sum(labels.values())
    if total < ENOUGH or max(labels.values()) < 0.99 * total:
        return
    value, count = labels.most_common(1)[0]
    told = [seen_by(f"rows whose label is {value}", count / total)]
    summary = f"the label of {count} of {total} rows is {value}: there is nothing that it could be told apart from"
    advice = "data.train's label_column may name the wrong column, or the export kept one kind of rows only"
    yield Seen("loss_flat", 0.85, summary, evidence=told, next=advice, before=1)


@detector("empty texts")
def empty(facts: RunFacts) -> Iterator[Seen]:
    rows = rows_of(facts, "train")
    if facts.is_rl or str(facts.setting("algorithm.name")) == "cpt" or len(rows) < ENOUGH:
        return
    hollow = [row for row in rows if not row.prompt.strip() or (row.has_completion and not row.completion.strip())]
    if len(hollow) < EMPTY * len(rows):
        return
    share = len(hollow) / len(rows)
    told = [seen_by("rows with an empty prompt or completion", share, samples=[row.id for row in hollow[:3]])]
    summary = f"{len(hollow)} of {len(rows)} rows have an empty prompt or completion"
    advice = "data.train's columns may name the wrong ones; `oxrl data validate` lists the rows"
    yield Seen("rows_lost", 0.8, summary, "error" if share > 0.3 else "warning", told, advice, before=1)


@detector("one answer in all rows")
def one_answer(facts: RunFacts) -> Iterator[Seen]:
    rows = [row for row in rows_of(facts, "train") if row.completion or row.answer]
    texts = Counter(((facts.is_rl and row.answer) or row.completion or row.answer).strip() for row in rows)
    if len({row.prompt for row in rows}) < ENOUGH or len(texts) == 0:
        return
    text, count = texts.most_common(1)[0]
    if count < ONE_ANSWER * len(rows):
        return
    told = [seen_by("rows with this answer", count / len(rows)), seen_by("the answer", repr(text[:80]))]
    summary = f"{count} of {len(rows)} rows have one and the same answer, {text[:40]!r}, to different prompts"
    advice = "data.train's answer_column or completion_column may name the wrong column"
    yield Seen("constant_answer", 0.8, summary, "error" if count == len(rows) else "warning", told, advice, before=1)


@detector("rows that weigh too much")
def oversampled(facts: RunFacts) -> Iterator[Seen]:
    rows = [row for row in rows_of(facts, "train") if row.answer or row.completion]
    if len(rows) < ENOUGH:
        return
    times = Counter((row.prompt, row.answer, row.completion, row.question, row.verdict) for row in rows)
    many = [(row, count) for row, count in times.most_common(200) if count >= WEIGHTY_TIMES]
    share = sum(count for _, count in many) / len(rows)
    # Of a set of rows that all come equally often another detector speaks.
    if share < WEIGHTY or len(many) > 0.5 * len(times):
        return
    told = [seen_by("share of the rows that they make up", share)]
    told += [seen_by("times that it stands there", f"{count}: {row[0][-60:]!r}") for row, count in many[:3]]
    summary = f"{len(many)} of {len(times)} different rows make up {share:.0%} of the data"
    yield Seen("duplicate_prompts", 0.85, summary, "error" if share > 0.3 else "warning", told, before=1)


def _was_learned(facts: RunFacts) -> bool:
    """Whether the completions agree with the answers of the rows: then these belong to their prompts."""
    rewards = [value for _, value in facts.series("reward/mean")]
    best = max((sample.score or 0.0 for sample in facts.samples.all() if sample.has_verdict), default=0.0)
    if not facts.is_rl or len(rewards) < 5 or best <= 0 or commonest(facts.samples.late())[1] > 0.5:
        return False
    return max(statistics.fmean(rewards[at : at + 5]) for at in range(len(rewards) - 4)) > LEARNED * best


def _are_alike(one: Sequence[KnownRow], two: Sequence[KnownRow]) -> bool:
    """Whether the rows are of one kind, and their prompts of about the same length."""
    if len(one) < ENOUGH or len(two) < ENOUGH or any(row.question for row in one) != any(row.question for row in two):
        return False
    lengths = sorted(statistics.median(len(row.prompt) for row in rows) for rows in (one, two))
    return lengths[1] <= ALIKE * lengths[0]


def _rejected(rows: Sequence[KnownRow]) -> list[tuple[str, str]]:
    """Prompt and the text that is said to be worse: of a pair the rejected one, else what is labeled undesirable."""
    bad = [
        (row.prompt, row.completion if row.rejected is None else row.rejected)
        for row in rows[:LOOKED_AT]
        if row.question and (row.rejected is not None or row.verdict in UNDESIRABLE)
    ]
    return [(prompt, text) for prompt, text in bad if prompt and text]


def _right_answers(rows: Sequence[KnownRow], *, is_rl: bool) -> list[tuple[str, str]]:
    """Prompt and the text that is said to be good, of the first rows; undesirable completions say nothing."""
    good = [row for row in rows if row.rejected is not None or not row.question or row.verdict in DESIRABLE]
    pairs = [(row.prompt, row.answer if is_rl else row.completion or row.answer) for row in good[:LOOKED_AT]]
    texts = Counter(answer for _, answer in pairs)
    # An answer that most rows have belongs to no prompt more than to another: of it another detector speaks.
    common = {answer for answer, count in texts.items() if 2 * count > len(pairs)}
    return [(prompt, answer) for prompt, answer in pairs if prompt and answer and answer not in common]


def _excess(pairs: Sequence[tuple[str, str]]) -> tuple[float, float] | None:
    """How much more of an answer's words stand in its own prompt than in others', and its standard error."""
    if len(pairs) < ENOUGH or len({answer for _, answer in pairs}) < 2:
        return None
    # Texts of a single word, as digits, are compared by their characters.
    by_word = statistics.median(len(answer.split()) for _, answer in pairs) >= 3
    bags = [(_bag(prompt, by_word), _bag(answer, by_word)) for prompt, answer in pairs]
    shifts = [len(bags) * number // (OTHERS + 2) for number in range(1, OTHERS + 1)]
    gains: list[float] = []
    for place, (prompt, answer) in enumerate(bags):
        others = [_shared(bags[(place + shift) % len(bags)][0], answer) for shift in shifts]
        gains.append(_shared(prompt, answer) - statistics.fmean(others))
    return statistics.fmean(gains), statistics.stdev(gains) / len(gains) ** 0.5


def _bag(text: str, by_word: bool) -> Counter[str]:
    return Counter(text.lower().split() if by_word else text.lower())


def _shared(prompt: Counter[str], answer: Counter[str]) -> float:
    """The share of the answer that stands in the prompt, each word as often as it does there."""
    return (prompt & answer).total() / max(1, answer.total())
