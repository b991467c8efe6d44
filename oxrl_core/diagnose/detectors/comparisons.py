"""Preferences that are not learned: comparisons at chance, and a beta that leaves nothing of a margin."""

from __future__ import annotations

import math
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.detectors.numbers import AT_CHANCE, LONG, held_out_accuracy
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.rows import rows_of
from oxrl_core.diagnose.trends import median

NEAR = 0.05  # to a half: the mean over the last third of the steps
HEARD = 1e-2  # beta x margin: the sigmoid of less is a half to two digits
ADVICE = "set algorithm.beta to a usual value: 0.1, and 0.01 to 0.5 in recipes"
APART = 0.1  # above a half: 200 training pairs of the last steps at chance stay below it
DEAF = 0.01  # of the loss: a margin of a nat is worth a quarter of it at a usual beta
KEPT = 0.15  # of the training rows' gap: what held-out rows must show of it
SMALL_GAP = 0.3  # nats
LEARNED_MARGIN = 1.0  # nats: policy and reference differ by a factor of e


@detector("comparisons at chance")
def at_chance(facts: RunFacts) -> Iterator[Seen]:
    """Neither training pairs nor held-out ones are told apart: what is preferred does not depend on the texts."""
    accuracy, held = facts.trend("preference/accuracy"), held_out_accuracy(facts)
    if accuracy is None or accuracy.steps < LONG or held is None:
        return
    if abs(accuracy.last - 0.5) > NEAR or abs(held - 0.5) > AT_CHANCE:
        return
    told = [seen_by("preference/accuracy, last third", accuracy.last, facts.step)]
    told.append(seen_by("eval/preference/accuracy, second half", held, facts.step))
    loss = facts.trend("loss")
    told += [seen_by("loss at first", loss.first), seen_by("loss at last", loss.last, facts.step)] if loss else []
    shown = next((row for row in rows_of(facts, "train") if row.question), None)
    if shown:
        told.append(seen_by("a pair", f"{shown.prompt[-60:]!r}: {shown.verdict[:60]!r} of {shown.question[:100]}"))
    summary = f"after {accuracy.steps} steps {accuracy.last:.0%} of the training pairs and {held:.0%} of the held-out "
    summary += "ones are told apart, as by a coin: the preferences may be noise"
    advice = "label fifty pairs again by hand: where these verdicts agree with the rows in half of them, the rows are "
    advice += "noise; where they agree, look at the learning rate"
    yield Seen("loss_flat", 0.8, summary, evidence=told, next=advice, before=1)


@detector("what beta leaves of a margin")
def faint_beta(facts: RunFacts) -> Iterator[Seen]:
    beta, loss = facts.setting("algorithm.beta"), facts.values("loss")
    margins = facts.trend("preference/margin")
    if not isinstance(beta, (int, float)) or margins is None or len(loss) < LONG:
        return
    margin = abs(margins.last)
    # Of a sigmoid of beta x margin the loss is then log 2, whatever was learned.
    is_flat = abs(median(loss[-10:]) - math.log(2)) < HEARD
    if margin < LEARNED_MARGIN or abs(beta) * margin > HEARD or not is_flat:
        return
    told = [seen_by("algorithm.beta", float(beta)), seen_by("preference/margin", margins.last, facts.step)]
    told.append(seen_by("loss, median of the last ten", median(loss[-10:]), facts.step))
    summary = (
        f"with beta {beta:g} a margin of {margin:.3g} counts as {abs(beta) * margin:.2g}: the loss stays at log 2 "
    )
    summary += "and nothing holds the policy to its reference"
    yield Seen("loss_flat", 0.9, summary, evidence=told, next=ADVICE, numbers={"beta": "0.1"}, before=1)


@detector("what the loss hears of the margins")
def deaf(facts: RunFacts) -> Iterator[Seen]:
    """Margins of whole nats that leave the loss where it was: they are nothing to this beta, or its target is far."""
    loss, beta = facts.values("loss"), facts.setting("algorithm.beta")
    good, bad = dict(facts.series("preference/chosen")), dict(facts.series("preference/rejected"))
    margins = [good[step] - bad[step] for step in sorted(good) if step in bad]
    if len(loss) < LONG or len(margins) < LONG or not isinstance(beta, (int, float)):
        return
    first, last, moved = median(loss[:3]), median(loss[-5:]), median(margins[-5:]) - median(margins[:3])
    if moved < LEARNED_MARGIN or abs(last - first) > DEAF * abs(first):
        return
    told = [seen_by("preference/chosen less rejected, gained", moved, facts.step)]
    told += [seen_by("loss at first", first), seen_by("loss at last", last, facts.step)]
    told.append(seen_by("algorithm.beta", float(beta)))
    summary = f"the margin grows by {moved:.2g} nats and the loss stays at {last:.4g}: with beta {beta:g} it does not "
    summary += "hear what is learned, and nothing holds the policy to its reference"
    yield Seen("loss_flat", 0.85, summary, evidence=told, next=ADVICE, before=1)


@detector("comparisons that do not carry over")
def not_carried_over(facts: RunFacts) -> Iterator[Seen]:
    """Training pairs are told apart better and better, held-out ones as by a coin: learned by heart, or noise."""
    accuracy, held = facts.trend("preference/accuracy"), held_out_accuracy(facts)
    if accuracy is None or accuracy.steps < LONG or held is None:
        return
    if accuracy.last < 0.5 + APART or abs(held - 0.5) > AT_CHANCE:
        return
    told = [seen_by("preference/accuracy, last third", accuracy.last, facts.step)]
    told.append(seen_by("eval/preference/accuracy, second half", held, facts.step))
    summary = f"{accuracy.last:.0%} of the training pairs are told apart, and of held-out ones {held:.0%}: what is "
    summary += "learned says nothing about other pairs"
    advice = "label fifty pairs again by hand: are the preferences noise, or do texts and prompts not belong together? "
    yield Seen("overfitting", 0.8, summary, evidence=told, next=advice + "else there are too few pairs", before=1)


@detector("labeled completions that do not carry over")
def labels_not_carried_over(facts: RunFacts) -> Iterator[Seen]:
    """KTO and its like, which have no pairs: desirable less undesirable, in training and held out."""
    series = [dict(facts.series(f"{part}preference/{kind}", from_step=0))
              for part in ("", "eval/") for kind in ("chosen", "rejected")]  # fmt: skip
    if "preference/accuracy" in facts.names:
        return
    gaps, held = [
        [good[step] - bad[step] for step in sorted(good) if step in bad and step > 0]
        for good, bad in (series[:2], series[2:])
    ]
    if len(gaps) < LONG or len(held) < 3:
        return
    gap, kept = median(gaps[-len(gaps) // 3 :]), median(held[len(held) // 2 :])
    if kept > KEPT * gap and kept > 0.1:
        return
    told = [seen_by("preference/chosen less rejected, last third", gap, facts.step)]
    told.append(seen_by("eval/preference/chosen less rejected, second half", kept, facts.step))
    if gap > LEARNED_MARGIN / 2:
        summary = f"desirable training rows are {gap:.2g} nats ahead of the others, held-out ones {kept:.2g}: what is "
        summary += "learned says nothing about other rows"
        yield Seen("overfitting", 0.8, summary, evidence=told, before=1)
    elif abs(gap) < SMALL_GAP and not _is_slow(facts):
        summary = f"after {len(gaps)} steps desirable rows are {gap:.2g} nats ahead of the others, held-out ones "
        summary += f"{kept:.2g}: the labels may be noise"
        yield Seen("loss_flat", 0.75, summary, evidence=told, before=1)


def _is_slow(facts: RunFacts) -> bool:
    """Whether the rewards have hardly moved at all, so that nothing can be said about the labels."""
    moved = [abs(value) for value in facts.values("preference/chosen")[-10:]]
    return median(moved) < LEARNED_MARGIN
