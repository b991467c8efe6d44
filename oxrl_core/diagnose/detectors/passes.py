"""Few rows that come again and again, and training rows that are told apart worse than others."""

from __future__ import annotations

from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.detectors.numbers import held_out_accuracy
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.rows import rows_of
from oxrl_core.diagnose.samples import rows_of_steps
from oxrl_core.diagnose.trends import median, trend

PASSES, FEW = 12, 256  # times that each row is met, and rows: recipes take 1 to 5 passes over thousands
KNOWN = 0.5  # of its beginning: a training loss that the rows themselves explain
APART = 0.25  # of the fall of the training loss: by how much the held-out loss stays behind
BEHIND, GOOD = 0.12, 0.75  # how much worse training pairs are told apart than held-out ones, and how well those are
SETTLED, STEPS = 0.06, 20  # how much a settled accuracy may still rise in its second half, and its steps
LAST = 10
ENOUGH, SEEN = 60, 0.6  # rows; share of the rows due that are met: drawing with replacement meets 0.63 of them


AGAIN = 2  # steps behind a resume whose rows are compared with those of the first steps
LEFT_OUT = 0.05  # of the draws: rows that cannot be used are never met, and others come in their place


@detector("rows that come again and again")
def few_rows(facts: RunFacts) -> Iterator[Seen]:
    """Few supervised rows, each met many times; what is learned of them says less about held-out ones."""
    rows = rows_of(facts, "train")
    if facts.is_rl or not rows or len(rows) > FEW:
        return
    a_step = float(facts.setting("train.rows_per_step", 1) or 1)
    times = a_step * facts.step / len(rows)
    loss, held = facts.values("loss"), [value for _, value in facts.series("eval/loss", from_step=0)]
    if times < PASSES or len(loss) < 8:
        return
    told = [seen_by("training rows", len(rows)), seen_by("times that each was met", times, facts.step)]
    first, last = median(loss[:2]), median(loss[-5:])
    accuracy, held_accuracy = facts.trend("preference/accuracy"), held_out_accuracy(facts)
    behind = ""
    if accuracy and held_accuracy is not None and accuracy.last - held_accuracy > BEHIND:
        behind = f"{accuracy.last:.0%} of them are told apart, and {held_accuracy:.0%} of held-out pairs"
    elif len(held) >= 2 and last < KNOWN * abs(first) and held[-1] - last > APART * (first - last):
        behind = f"their loss fell from {first:.3g} to {last:.3g}, that of held-out rows to {held[-1]:.3g}"
    if not behind:
        return
    summary = f"{len(rows)} training rows, each met about {times:.0f} times: {behind}"
    asked = int(a_step * facts.step)
    severity = "error" if len(rows) <= FEW // 4 else "warning"
    advice = "more rows: look at data.train's limit and split"
    yield Seen("overfitting", 0.85, summary, severity, told, advice, {"limit": str(asked)}, before=1)


@detector("rows that are drawn")
def same_rows(facts: RunFacts) -> Iterator[Seen]:
    """Rows are met once before any is met again; where the same few come all the time, the others are never seen."""
    known = {row.id for row in rows_of(facts, "train")}
    sources = facts.setting("data.train", [])
    if len(known) < ENOUGH or len(sources) != 1:
        return  # of several sources a small one comes again before a large one is through
    if facts.is_rl:
        steps = facts.samples.steps()
        drawn = [name for step in steps for name in sorted({s.prompt_id for s in facts.samples.of_step(step)})]
    else:
        drawn = [name for step in rows_of_steps(facts.run.rollouts) for name in step]
    left_out = max((max(facts.values(f"data/{name}"), default=0.0) for name in ("dropped", "bad")), default=0.0)
    due = min(len(known), len(drawn))
    different = len(set(drawn))
    if len(drawn) < ENOUGH or different > SEEN * due or not set(drawn) <= known or left_out > LEFT_OUT * len(drawn):
        return
    told = [seen_by("different rows that were drawn", different, facts.step, sorted(set(drawn))[:3])]
    told += [seen_by("rows that were drawn", len(drawn)), seen_by("rows that there are", len(known))]
    summary = f"{len(drawn)} draws met only {different} of {len(known)} rows: the same rows come again and again"
    advice = "look at what draws the rows: a sampler that starts anew, or a seed that is the same in every step"
    yield Seen("duplicate_prompts", 0.9, summary, "error" if different < 0.5 * SEEN * due else "warning", told, advice,
               before=1)  # fmt: skip


@detector("rows over a resume")
def begun_anew(facts: RunFacts) -> Iterator[Seen]:
    """The rows behind a resume are those that the run began with: its place in the data was lost."""
    steps = _rows_by_step(facts)
    for event in facts.events:
        name = str(event.get("checkpoint", ""))[5:]
        if event.get("code") != "resumed" or not name.isdigit():
            continue
        step = int(name)
        first, behind = [[steps.get(at + way, []) for way in range(1, AGAIN + 1)] for at in (0, step)]
        if step <= AGAIN or not all(first) or not all(behind) or first != behind or len({*first[0]}) < 2:
            continue
        if steps.get(step) == steps.get(1):
            continue  # every step has these rows
        told = [seen_by("rows of the first step", ", ".join(first[0][:4]), 1)]
        told.append(seen_by("rows behind the resume", ", ".join(behind[0][:4]), step + 1))
        summary = (
            f"the rows behind the resume at step {step} are those of the first steps: its place in the data is lost"
        )
        advice = "rows at the beginning count twice, those at the end are never met; go on from a whole checkpoint"
        yield Seen("resume_jump", 0.88, summary, evidence=told, next=advice, before=step + 1)
        return


def _rows_by_step(facts: RunFacts) -> dict[int, list[str]]:
    """The ids of the rows of each recorded step, in order."""
    if not facts.is_rl:
        return dict(enumerate(rows_of_steps(facts.run.rollouts), start=1))
    return {
        step: list(dict.fromkeys(sample.prompt_id for sample in facts.samples.of_step(step)))
        for step in facts.samples.steps()
    }


@detector("training pairs against held-out pairs")
def noisy_pairs(facts: RunFacts) -> Iterator[Seen]:
    """Held-out pairs are told apart better than those that are trained on: part of these are the wrong way round."""
    series, held = facts.series("preference/accuracy"), facts.values("eval/preference/accuracy")
    if len(series) < STEPS or len(held) < 2:
        return
    late = trend(series[len(series) // 2 :])
    known = median([value for _, value in series[-LAST:]])
    best = min(held[-2:])
    # While it is still learning, training pairs of some steps ago lag behind the last evaluation.
    if late is None or late.change > SETTLED or best < GOOD or best - known < BEHIND:
        return
    told = [seen_by("preference/accuracy, last ten steps", known, facts.step)]
    told.append(seen_by("eval/preference/accuracy, the worse of the last two", best, facts.step))
    summary = f"{known:.0%} of the training pairs are told apart and no more, and {best:.0%} of the held-out ones: "
    summary += f"about {best - known:.0%} of the training pairs may be the wrong way round"
    advice = "label fifty training pairs again by hand; look for a source, or an annotator, that says the opposite"
    yield Seen("contradictory_rows", 0.85, summary, evidence=told, next=advice, before=1)
