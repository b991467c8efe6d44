"""What it learns from: masks, limits, ends, doubles, leaks and contradictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.rows import KnownRow, rows_of
from oxrl_core.diagnose.samples import Sample
from oxrl_core.diagnose.trends import median, trend

CUT = 0.5  # share of completions that are cut off: half of the verdicts are on unfinished answers
CUT_ALL = 0.9
NO_ROOM = 0.6  # share of the references that are longer than a completion may be
TAUGHT, TAUGHT_FEW = 0.5, 0.1  # share of the rows that teach their end: a warning below the first, else an error
JOINED = 0.02  # of the held-out loss: what right prompts must at least be worth to their answers
LEARNED = 0.8  # of its beginning: a loss above it has learned nothing yet, of prompts or of answers
SETTLED_STEPS, SETTLED_CHANGE = 20, 0.15  # steps, and how much of its beginning the loss may still fall by
LOST_SOME, LOST_MANY = 0.05, 0.3  # share of the training rows that never reach the model
LEAK = 0.02  # share of held-out rows that stand in the training data too: a few may be chance
LEAK_MANY = 0.2
TWICE, SHORT = 0.3, 3.0  # share of the prompts with several completions, and their words
CONTRADICTED = 0.1  # share of prompts with several answers
DOUBLES, DOUBLES_MANY = 1.5, 10.0  # rows for each different one: a file that stands there twice; a handful of rows
ECHOES, ECHOES_MANY = 0.1, 0.3  # share of rows whose answer is the prompt: no task of words asks for many of them


@detector("completions that are cut off")
def truncation(facts: RunFacts) -> Iterator[Seen]:
    series = facts.values("completion/truncated")
    if len(series) < 3 or not facts.stops_at_eos:
        return
    share = median(series[-10:])
    if share < CUT:
        return
    limit = facts.setting("rollout.max_completion_tokens")
    late = facts.samples.late()
    cut = [sample for sample in late if sample.finish_reason == "length"]
    told = [
        seen_by("completion/truncated", share, facts.step, [sample.name for sample in cut[:3]]),
        seen_by("rollout.max_completion_tokens", str(limit)),
    ]
    begins = median(series[:5])
    if _is_going_on(cut):
        told.append(seen_by("a cut completion", repr(cut[0].completion[-80:]), cut[0].step, [cut[0].name]))
        yield Seen("no_eos", 0.8, f"{share:.0%} of the completions go on and on until they are cut off", evidence=told)
        return
    severity = "error" if share >= CUT_ALL or begins >= CUT else "warning"
    summary = f"{share:.0%} of the completions are cut off at {limit} tokens"
    yield Seen("truncation", 0.85 if share >= CUT_ALL else 0.7, summary, severity, told)


@detector("references and the room for them")
def no_room(facts: RunFacts) -> Iterator[Seen]:
    """Most references are longer than a completion may be: nobody can give the right answer."""
    limit = float(facts.setting("rollout.max_completion_tokens", 0) or 0)
    whole = [sample for sample in facts.samples.all() if sample.length > 0 and sample.completion]
    answers = [len(row.answer) for row in rows_of(facts, "train") if row.answer]
    if not facts.is_rl or limit <= 0 or len(whole) < 50 or len(answers) < 10:
        return
    per_token = median([len(sample.completion) / sample.length for sample in whole])
    longer = sum(length > limit * max(per_token, 1.0) for length in answers)
    # Where full marks are given all the same, the beginning of an answer is all that is asked for.
    if longer < NO_ROOM * len(answers) or max(sample.score or 0.0 for sample in whole) >= 1:
        return
    told = [seen_by("rollout.max_completion_tokens", limit), seen_by("characters of a token", per_token)]
    told.append(seen_by("references that do not fit", longer / len(answers)))
    summary = f"{longer} of {len(answers)} references are longer than the {limit:g} tokens that a completion may have"
    yield Seen("truncation", 0.9, summary, "error", told, before=1)


@detector("the loss mask")
def mask(facts: RunFacts) -> Iterator[Seen]:
    series = facts.values("mask/coverage")
    if not series:
        return
    share = median(series)
    told = [seen_by("mask/coverage", share, facts.step)]
    if share <= 0.001:
        yield Seen("mask_coverage", 0.9, "the mask covers nothing: there is nothing to learn", evidence=told)
    elif share >= 0.999 and str(facts.setting("algorithm.name")) != "cpt" and not facts.is_rl:
        yield Seen("mask_coverage", 0.9, "the mask covers everything, prompts included", evidence=told, before=1)


@detector("whether rows teach their end")
def endless_rows(facts: RunFacts) -> Iterator[Seen]:
    taught = facts.values("mask/eos")
    if taught and str(facts.setting("algorithm.name")) != "cpt" and median(taught) < TAUGHT:
        summary = f"{1 - median(taught):.0%} of the rows are trained on without the token that ends them"
        told = [seen_by("mask/eos, median", median(taught), facts.step)]
        yield Seen("no_eos", 0.9, summary, "error" if median(taught) < TAUGHT_FEW else "warning", told, before=1)


@detector("rows that never reach the model")
def rows_lost(facts: RunFacts) -> Iterator[Seen]:
    counts = {name: max(facts.values(f"data/{name}"), default=0.0) for name in ("dropped", "bad", "cut")}
    per_step = facts.setting("train.prompts_per_step" if facts.is_rl else "train.rows_per_step", 1)
    taken = max(1.0, float(per_step) * max(1, facts.step))
    worst = max(counts, key=counts.__getitem__)
    share = counts[worst] / (taken + counts["dropped"] + counts["bad"])
    if share < LOST_SOME:
        return
    told = [seen_by(f"data/{name}", value, facts.step) for name, value in counts.items() if value]
    word = {"dropped": "dropped", "bad": "unreadable", "cut": "cut"}[worst]
    events = [event for event in facts.events if event.get("code") in ("rows_dropped", "bad_rows", "rows_cut")]
    told += [seen_by("event", str(event.get("message", ""))[:200]) for event in events[:1]]
    yield Seen(
        "rows_lost", 0.8, f"{share:.0%} of the rows are {word}", "error" if share > LOST_MANY else "warning", told
    )


@detector("training rows and held-out rows")
def leak(facts: RunFacts) -> Iterator[Seen]:
    train, held_out = rows_of(facts, "train"), rows_of(facts, "eval")
    if not train or not held_out:
        return
    known = {_plain(row.prompt) for row in train if row.prompt}
    shared = [row for row in held_out if _plain(row.prompt) in known]
    share = len(shared) / len(held_out)
    if share < LEAK:
        return
    told = [
        seen_by("share of held-out prompts that are trained on", share, samples=[row.id for row in shared[:3]]),
        seen_by("held-out rows", len(held_out)),
    ]
    summary = f"{len(shared)} of {len(held_out)} held-out prompts stand in the training data"
    yield Seen("train_eval_leak", 0.95, summary, "error" if share >= LEAK_MANY else "warning", told)


@detector("answers of the rows")
def answers(facts: RunFacts) -> Iterator[Seen]:
    known = rows_of(facts, "train")
    for what, texts in (
        ("reference", [(row, row.answer) for row in known if row.answer and facts.is_rl]),
        ("completion", [(row, row.completion) for row in known if row.completion and not facts.is_rl]),
    ):
        echoes = [row for row, text in texts if text.strip() == row.prompt.strip()]
        if len(texts) >= 10 and len(echoes) > ECHOES * len(texts):
            share, names = len(echoes) / len(texts), [row.id for row in echoes[:3]]
            told = [seen_by(f"{what} equal to the prompt", share, samples=names)]
            summary = f"the {what} of {len(echoes)} of {len(texts)} rows is the prompt itself"
            severity = "error" if share > ECHOES_MANY else "warning"
            yield Seen("answer_is_prompt", 0.97 if share > 0.9 else 0.85, summary, severity, told, before=1)
    if not facts.is_rl:
        yield from _two_answers(known)
    rows = [row for row in known if row.answer]
    if len(rows) < 10:
        return
    by_prompt: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        by_prompt[row.prompt].add(row.answer)
    doubled = [prompt for prompt, texts in by_prompt.items() if len(texts) > 1]
    # Supervised rows may well have several good answers; a verifier has one reference.
    if facts.is_rl and len(doubled) > CONTRADICTED * len(by_prompt):
        told = [seen_by("prompts with several answers", len(doubled) / len(by_prompt))]
        told.append(seen_by("one of them", f"{doubled[0]!r}: {sorted(by_prompt[doubled[0]])[:3]}"))
        summary = f"{len(doubled)} of {len(by_prompt)} prompts have several reference answers"
        yield Seen("contradictory_rows", 0.85, summary, evidence=told, before=1)


def _two_answers(rows: Sequence[KnownRow]) -> Iterator[Seen]:
    """Most prompts have several completions, and short ones: of long ones many may be good, of a number only one."""
    by_prompt: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.completion and not row.question:
            by_prompt[row.prompt].add(row.completion.strip())
    doubled = {prompt: texts for prompt, texts in by_prompt.items() if len(texts) > 1}
    words = [float(len(text.split())) for texts in doubled.values() for text in texts]
    if len(by_prompt) < 30 or len(doubled) < TWICE * len(by_prompt) or median(words) > SHORT:
        return
    prompt, texts = next(iter(doubled.items()))
    told = [seen_by("prompts with several completions", len(doubled) / len(by_prompt))]
    told.append(seen_by("one of them", f"{prompt[-60:]!r}: {sorted(texts)[:3]}"))
    summary = f"{len(doubled)} of {len(by_prompt)} prompts stand in the data with several short completions"
    yield Seen("contradictory_rows", 0.75, summary, "warning", told, before=1)


@detector("verdicts of the rows")
def disagreeing(facts: RunFacts) -> Iterator[Seen]:
    verdicts: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows_of(facts, "train"):
        if row.question:
            verdicts[row.prompt, row.question].add(row.verdict)
    split = [question for question, given in verdicts.items() if len(given) > 1]
    if len(verdicts) >= 10 and len(split) > CONTRADICTED * len(verdicts):
        told = [seen_by("questions with both verdicts", len(split) / len(verdicts))]
        told.append(seen_by("one of them", f"{split[0][0][-60:]!r}: {split[0][1][:100]}"))
        summary = f"{len(split)} of {len(verdicts)} comparisons or labels stand in the data both ways"
        yield Seen("contradictory_rows", 0.85, summary, evidence=told, before=1)


@detector("what prompts say about their answers")
def joined(facts: RunFacts) -> Iterator[Seen]:
    """Right prompts are worth nothing to held-out answers, and the loss has stopped falling: a wrong join."""
    gains, held_out = facts.series("eval/prompt_gain", from_step=0), facts.values("eval/loss")
    loss = facts.series("loss")
    late = trend(loss[len(loss) // 2 :])
    if len(gains) < 2 or not held_out or late is None or len(loss) < SETTLED_STEPS:
        return
    if str(facts.setting("algorithm.name")) == "cpt":
        return  # texts have no prompts, whatever an older record says
    step, gain = gains[-1]
    first = median([value for _, value in loss[:3]])
    # While much is still being learned, what the prompts say may be what comes next.
    is_settled = late.change > -SETTLED_CHANGE * first and late.last < LEARNED * first
    if gain > JOINED * held_out[-1] or not is_settled:
        return
    told = [seen_by("loss behind another's prompt, less behind its own", gain, step)]
    told += [seen_by("eval/loss", held_out[-1], step), seen_by("loss, second half", late.change, facts.step)]
    summary = "a held-out answer is as likely behind another row's prompt as behind its own: answers and prompts of "
    summary += "the training rows do not belong together"
    yield Seen("contradictory_rows", 0.8, summary, evidence=told, before=1)


@detector("doubles")
def doubles(facts: RunFacts) -> Iterator[Seen]:
    rows = rows_of(facts, "train")
    prompts = {(row.prompt, row.answer, row.completion, row.question, row.verdict) for row in rows}
    # Without any of these a row is its prompt alone, but for texts, which are nothing else.
    is_text = str(facts.setting("algorithm.name")) == "cpt"
    is_whole = is_text or all(row.answer or row.completion or row.question for row in rows)
    if len(rows) >= 30 and len(rows) > DOUBLES * len(prompts) and is_whole:
        told = [seen_by("rows", len(rows)), seen_by("different rows", len(prompts))]
        severity = "error" if len(rows) > DOUBLES_MANY * len(prompts) else "warning"
        yield Seen(
            "duplicate_prompts", 0.85, f"{len(rows)} rows hold only {len(prompts)} different ones", severity, told
        )


def _plain(text: str) -> str:
    """A prompt without the differences that an export makes: case and white space."""
    return " ".join(text.lower().split())


def _is_going_on(cut: list[Sample]) -> bool:
    """Whether the cut completions say the same again and again, as a model does that was never taught to end."""
    if len(cut) < 10 or median([float(sample.length) for sample in cut]) < 24:
        return False
    repeating = sum(
        len(set(zip(s.tokens, s.tokens[1:], s.tokens[2:], strict=False))) < 0.5 * len(s.tokens) for s in cut
    )
    return repeating > 0.5 * len(cut)
