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
