"""Answers where they do not belong: in prompts, beside other answers, or cut off by a stop word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.rows import KnownRow, rows_of
from oxrl_core.diagnose.samples import Sample

ENOUGH = 10  # rows
LEAST = 3  # characters of an answer: a digit stands in many a prompt
GIVEN_AWAY, BY_CHANCE = 0.5, 0.2  # share of the prompts that hold their answer: of training, and of held-out rows
PART = 0.6  # of a prompt, at most: where it is all of the prompt, the task is to copy it
FEW_ANSWERS = 20  # different references: a choice of more is none that one can name as a whole
NAMED, NAMED_BEFORE = 0.6, 0.6  # share of late completions that name several; early ones, of that
FILLED = 0.5  # of a completion: answers, and not words about them
PAID = 0.8  # of the best reward
JUDGED = 100
CUT_SHORT = 0.2  # share of the completions that ended by themselves, and not with a token that ends them


@detector("answers within prompts")
def shown_answers(facts: RunFacts) -> Iterator[Seen]:
    """Training prompts that hold their answer where held-out ones do not: it need only be copied."""
    train, held = ([row for row in rows_of(facts, part) if _answer(row)] for part in ("train", "eval"))
    if len(train) < ENOUGH or len(held) < ENOUGH:
        return
    shows = [row for row in train if _answer(row) in row.prompt]
    share, usual = len(shows) / len(train), sum(_answer(row) in row.prompt for row in held) / len(held)
    if share < GIVEN_AWAY or usual > BY_CHANCE:
        return
    told = [
        seen_by("training prompts that hold their answer", share, samples=[row.id for row in shows[:3]]),
        seen_by("held-out prompts that hold theirs", usual),
        seen_by("one of them", f"{shows[0].prompt[-80:]!r}: {_answer(shows[0])[:40]!r}"),
    ]
    summary = f"{share:.0%} of the training prompts hold their answer, and {usual:.0%} of the held-out ones: what is "
    summary += "learned is to copy it"
    advice = "look at what makes the training prompts: a template, or a column, that holds the solution"
    yield Seen("answer_is_prompt", 0.92, summary, evidence=told, next=advice, before=1)


@detector("several answers at once")
def all_named(facts: RunFacts) -> Iterator[Seen]:
    """Completions have come to name several of the possible answers, one after the other, and are paid for it."""
    answers = {row.id: _plain(row.answer) for row in rows_of(facts, "train") if row.answer.strip()}
    choices = sorted(set(answers.values()))
    late, early = ([s for s in part if s.has_verdict] for part in (facts.samples.late(), facts.samples.early()))
    if not 2 < len(choices) <= FEW_ANSWERS or len(late) < JUDGED or len(early) < JUDGED:
        return
    best = max(sample.score or 0.0 for sample in [*early, *late])
    lists = [sample for sample in late if _lists(sample, choices) and (sample.score or 0.0) > PAID * best > 0]
    share = len(lists) / len(late)
    before = sum(_lists(sample, choices) for sample in early) / len(early)
    if share < NAMED or before > NAMED_BEFORE * share:
        return
    told = [
        seen_by("late completions that name several answers", share, facts.step, [s.name for s in lists[-3:]]),
        seen_by("early ones", before),
        *(seen_by("one of them", f"{s.prompt[-40:]!r} -> {s.completion[:60]!r}: {s.score:g}") for s in lists[-2:]),
    ]
    summary = f"{share:.0%} of the late completions name several of the {len(choices)} answers that there are, and are "
    summary += "paid for the right one among them"
    advice = "accept one answer, in one place (the last, or within a mark), and nothing for a completion that names two"
    yield Seen("constant_answer", 0.9, summary, evidence=told, next=advice)


@detector("completions that something else has ended")
def cut_by_words(facts: RunFacts) -> Iterator[Seen]:
    """Completions that ended by themselves end with a token that ends them; others were cut by a word to stop at."""
    ends = facts.special_tokens
    ended = [s for s in facts.samples.all() if s.finish_reason == "stop" and s.tokens and s.length == len(s.tokens)]
    if not ends or not facts.stops_at_eos or len(ended) < JUDGED:
        return
    cut = [sample for sample in ended if sample.tokens[-1] not in ends]
    share = len(cut) / len(ended)
    if share < CUT_SHORT:
        return
    told = [seen_by("of the completions that ended before their limit: with no token that ends one", share, facts.step,
                    [sample.name for sample in cut[-3:]])]  # fmt: skip
    told += [seen_by("one of them", f"{s.prompt[-40:]!r} -> {s.completion[-60:]!r}") for s in cut[-2:]]
    summary = f"{share:.0%} of the completions that ended before their limit did not end themselves: something stops "
    summary += "them in the middle of the text"
    advice = "look for words to stop at, in the sampler's defaults or the model's generation_config.json"
    yield Seen("truncation", 0.9, summary, evidence=told, next=advice, before=1)


def _answer(row: KnownRow) -> str:
    text = (row.answer or row.completion).strip()
    return text if LEAST <= len(text) <= PART * len(row.prompt.strip()) else ""


def _plain(text: str) -> str:
    return text.strip().lower()


def _lists(sample: Sample, choices: Sequence[str]) -> bool:
    """Whether it names two of the choices or more, none of them within another, and says little else."""
    text = _plain(sample.completion)
    found = [choice for choice in choices if choice in text]
    alone = [choice for choice in found if not any(choice != other and choice in other for other in found)]
    said = sum(character.isalnum() for character in text)  # what stands between them, as commas, says nothing
    return len(alone) > 1 and sum(map(len, alone)) >= FILLED * said
