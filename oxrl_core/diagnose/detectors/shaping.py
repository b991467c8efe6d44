"""What is made of the verdicts before they are learned from, where the settings say what that should be."""

from __future__ import annotations

from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import median

STEPS = 8
APART = 0.05  # of the largest verdict: completions that are left out make the two means differ a little
MOSTLY = 0.8  # of the steps


@detector("the shaped reward of each step")
def shaped(facts: RunFacts) -> Iterator[Seen]:
    """A shaped reward that is not the verdict where nothing shapes it, or above it where there are only penalties."""
    means = dict(facts.series("reward/mean"))
    pairs = [(step, means[step], value) for step, value in facts.series("reward/shaped") if step in means]
    if len(pairs) < STEPS or _is_transformed(facts) or any(facts.values("reward/errors")):
        return
    has_penalty = any(facts.setting(f"reward.{name}", 0) for name in ("overlong_buffer", "missing_eos_penalty"))
    scores = [abs(sample.score or 0.0) for sample in facts.samples.all() if sample.has_verdict]
    room = APART * max([*scores, *(abs(verdict) for _, verdict, _ in pairs), 1e-9])
    above = [value - verdict > room for _, verdict, value in pairs]
    below = [verdict - value > room for _, verdict, value in pairs]
    other = above if has_penalty else [one or two for one, two in zip(above, below, strict=True)]
    if sum(other) < MOSTLY * len(pairs):
        return
    verdict, value = median([one for _, one, _ in pairs]), median([two for _, _, two in pairs])
    told = [seen_by("reward/mean, median", verdict), seen_by("reward/shaped, median", value)]
    told.append(seen_by("steps in which they are apart", sum(other)))
    why = "the settings know nothing but penalties" if has_penalty else "nothing of the settings shapes it"
    summary = f"what is learned from is {value:.3g} where the verdicts are {verdict:.3g}, and {why}"
    advice = "look at what stands between the verdicts and the advantages: a sign, a mask, a scale"
    yield Seen("shaped_reward", 0.93, summary, evidence=told, next=advice, before=1)


def _is_transformed(facts: RunFacts) -> bool:
    """Whether the two are of different scales, or of different completions."""
    is_scaled = str(facts.setting("reward.normalize", "none")) != "none" or facts.setting("reward.clip") is not None
    return is_scaled or any(name.startswith("selection/") for name in facts.names)
