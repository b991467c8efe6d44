"""Whether the sampler draws from the policy that is trained."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import median

# Mean |trainer - sampler| per token. float32 engines differ by 1e-6, bfloat16 by 0.01; 0.1 makes ratios wrong by 10 %.
GAP = 0.1
FEW_TOKENS, HALF = 5, 0.5  # top-k and top-p below which a policy is nearly greedy
STUCK = 0.3  # of full marks
GROWTH = 5.0  # last against first gap, or old against fresh weights: a gap of precision stands, one of age grows


@detector("trainer against sampler")
def logprob_gap(facts: RunFacts) -> Iterator[Seen]:
    gap = facts.trend("gap/mean")
    if gap is None or gap.last < GAP:
        return
    worst = sorted(
        (sample for sample in facts.samples.late() if sample.trainer_logprobs and sample.rollout_logprobs),
        key=lambda sample: -_gap(sample.trainer_logprobs, sample.rollout_logprobs),
    )[:3]
    told = [
        seen_by("gap/mean", gap.last, facts.step, [sample.name for sample in worst]),
        seen_by("gap/mean at first", facts.values("gap/mean")[0], 1),
    ]
    is_stale = gap.last > GROWTH * max(facts.values("gap/mean")[0], 1e-6) and gap.rises
    summary = f"trainer and sampler differ by {gap.last:.3g} per token"
    ages = dict(facts.series("staleness"))
    fresh = [value for step, value in facts.series("gap/mean") if ages.get(step) == 0]
    old = [value for step, value in facts.series("gap/mean") if ages.get(step, 0) >= 1]
    if fresh and old and median(old) > GROWTH * max(median(fresh), 1e-6):
        oldest = max(ages, key=ages.__getitem__)
        told.append(seen_by("steps behind, at most", ages[oldest], oldest))
        summary += f", but by {median(fresh):.2g} with fresh weights: they are up to {ages[oldest]:g} steps old"
        yield Seen("stale_sampler", 0.9, summary, evidence=told)
    elif is_stale:
        summary += ", and the gap grows with every step: the sampler keeps its old weights"
        yield Seen("stale_sampler", 0.8, summary, evidence=told)
    yield Seen("logprob_gap", 0.75, summary, evidence=told)


@detector("policy versions")
def stale(facts: RunFacts) -> Iterator[Seen]:
    every = int(facts.setting("rollout.sync_every", 1) or 1)
    allowed = every - 1 + int(facts.setting("rollout.pipeline", 0) or 0)
    lags = [(sample.step - 1 - sample.policy_version, sample) for sample in facts.samples.all()]
    if not lags:
        return
    lag, sample = max(lags, key=lambda pair: pair[0])
    if lag > allowed:
        summary = (
            f"rollouts of step {sample.step} were drawn by policy version {sample.policy_version}, {lag} steps old"
        )
        told = [seen_by("steps behind", lag, sample.step, [sample.name]), seen_by("allowed", allowed)]
        yield Seen("stale_sampler", 0.95, summary, evidence=told)


@detector("top-p, top-k and what is cut off")
def truncated_sampling(facts: RunFacts) -> Iterator[Seen]:
    top_p, top_k = float(facts.setting("rollout.top_p", 1.0)), int(facts.setting("rollout.top_k", 0) or 0)
    if not facts.is_rl or (top_p >= 1 and top_k == 0):
        return
    is_corrected = facts.setting("algorithm.mismatch", "off") != "off"
    told = [seen_by("rollout.top_p", top_p), seen_by("rollout.top_k", top_k)]
    few = 0 < top_k <= FEW_TOKENS or top_p < HALF
    reward = facts.trend("reward/mean")
    stuck = few and reward is not None and (not reward.rises or reward.last < STUCK)
    dropped = median(facts.values("mismatch/dropped")) if facts.values("mismatch/dropped") else 0.0
    if not is_corrected:
        yield Seen(
            "truncated_sampling", 0.8, "part of the distribution is never drawn, and nothing corrects it", "error", told
        )
    elif dropped > 0.1:
        told.append(seen_by("mismatch/dropped", dropped, facts.step))
        yield Seen(
            "truncated_sampling",
            0.85 if stuck else 0.6,
            f"{dropped:.0%} of the tokens are dropped by the correction",
            "error" if stuck else "warning",
            told,
            before=1,
        )
    elif few:
        what = f"the {top_k} likeliest tokens" if 0 < top_k <= FEW_TOKENS else f"the likeliest tokens up to {top_p:g}"
        summary = f"only {what} are ever drawn: nothing else can be tried, and so be learned"
        yield Seen("truncated_sampling", 0.85 if stuck else 0.7, summary, "error" if stuck else "warning", told,
                   before=1)  # fmt: skip


def _gap(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    gaps = [abs(one - two) for one, two in zip(ours, theirs, strict=False)]
    return statistics.fmean(gaps) if gaps else 0.0
