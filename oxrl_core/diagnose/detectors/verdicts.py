"""The rewards themselves: constant, broken, contradictory, too easy, too hard, flat or falling."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.rows import rows_of
from oxrl_core.diagnose.samples import Sample
from oxrl_core.diagnose.trends import correlation, median, trend
from oxrl_core.diagnose.views import Evidence

SURE_STEPS = 10  # steps of one constant reward that cannot be chance
FEW_STEPS = 5  # with that many rollouts behind each, fewer steps suffice
MANY = 200  # rollouts
DEAD_GROUPS = 0.85  # share of groups with one reward
REJECTED = 0.1  # of the range of rewards: by how much a reference is paid worse than what is none
ERRORS_SOME, ERRORS_MANY = 0.05, 0.3  # share of completions without a verdict: noticeable; a run on what is left
ERRORS_FEW, ERRORS_COUNTED = 0.01, 10  # of the whole run, where so many are recorded: a verifier with a hole
REPEATED, REPEATED_FEW = 20, 6  # completions seen twice with a verdict each, before their consistency says something
# A process that is gone, in the words of the pool of verifiers or of the sandbox.
DIED = re.compile(r"process (ended|died|was killed|is gone)|exit code|Broken ?pipe|signal \d+|SIG(SEGV|KILL|ABRT|BUS)")
DEATHS, DEATHS_SHARE = 3, 0.01  # fewer may be the machine's fault
SMALL_GROUP, USUAL_GROUP = 4, 8
LIKE_EXPECTED = 0.1
DULL = 0.6  # share of small groups with one reward, from which on most of the drawing is for nothing
FLAT_STEPS = 20
WINDOW, FALLEN = 5, 0.6  # steps that tell a level; of the best such level
PAIRS = 200  # tokens seen at two steps, before their direction says something
UNSURE = -3.0  # log-prob of a completion: one in twenty
OFTEN = 4  # times in a step: the mean of fewer is noise


@detector("rewards that are always the same")
def constant(facts: RunFacts) -> Iterator[Seen]:
    if not facts.is_rl:
        return
    judged = [sample for sample in facts.samples.all() if sample.has_verdict]
    scores = {round(sample.score or 0.0, 9) for sample in judged}
    means, stds = facts.values("reward/mean"), facts.values("reward/std")
    if judged:
        is_constant = len(scores) == 1 and len({sample.step for sample in judged}) >= FEW_STEPS and len(judged) >= MANY
        value = next(iter(scores))
    else:
        is_constant = len(means) >= SURE_STEPS and len(set(means)) == 1 and not any(stds)
        value = means[0] if means else 0.0
    if not is_constant:
        return
    first = judged[0] if judged else None
    told = [seen_by("reward of every completion", value, facts.step, [sample.name for sample in judged[:3]])]
    told += (
        [seen_by("one of them", f"{first.prompt[-60:]!r} -> {first.completion[:60]!r}", first.step)] if first else []
    )
    others = {sample.completion for sample in judged}
    summary = f"all {len(judged) or 'recorded'} completions got {value:g}"
    summary += f", {len(others)} different texts among them" if len(others) > 1 else ""
    confidence = 0.95 if len(others) > 10 or not judged else 0.7
    cause = "reward_zero" if value == 0 else "reward_full" if value >= 1 else "reward_constant"
    yield Seen(cause, confidence, summary, evidence=told, before=1)


@detector("verdicts that failed")
def errors(facts: RunFacts) -> Iterator[Seen]:
    shares = facts.values("reward/errors")
    bad = [sample for sample in facts.samples.all() if sample.status in ("error", "timeout")]
    # At the end, or over the whole run where the record has enough of them to be no accident.
    late_share = statistics.fmean(shares[-max(FEW_STEPS, len(shares) // 3) :]) if len(shares) >= 3 else 0.0
    whole = statistics.fmean(shares) if shares else 0.0
    share = max(late_share, whole)
    if share < ERRORS_SOME and (whole < ERRORS_FEW or len(bad) < ERRORS_COUNTED):
        yield from _dead_verifiers(facts)
        return
    late = [sample for sample in bad if sample.status == "timeout"]
    names = [sample.name for sample in bad[:3]]
    told = [seen_by("reward/errors", share, facts.step, names)]
    severity = "error" if share >= ERRORS_MANY else "warning"
    waited = _waits(facts)
    if len(late) * 2 > len(bad) or (not bad and waited):
        summary = f"{share:.0%} of the verdicts did not come in time"
        yield Seen("verifier_timeouts", 0.9, summary, severity, [*told, *waited])
    else:
        summary = f"{share:.0%} of the completions have no verdict: the verifier fails on them"
        yield Seen("verifier_errors", 0.9, summary, severity, [*told, *waited])


def _dead_verifiers(facts: RunFacts) -> Iterator[Seen]:
    """A crash costs a new process and says nothing of the completion: a few are a defect of the verifier."""
    judged = facts.samples.all()
    dead = [sample for sample in judged if sample.status == "error" and DIED.search(sample.detail)]
    if len(dead) < DEATHS or len(dead) < DEATHS_SHARE * len(judged):
        return
    told = [seen_by("verdicts without", len(dead) / len(judged), dead[-1].step, [sample.name for sample in dead[:3]])]
    told.append(seen_by("why", dead[0].detail, dead[0].step))
    told.append(seen_by("one of these completions", repr(dead[0].completion[:80]), dead[0].step))
    summary = f"the verifier's process died on {len(dead)} of {len(judged)} completions"
    yield Seen("verifier_errors", 0.85, summary, "warning", told, before=1)


@detector("one completion, one verdict")
def inconsistent(facts: RunFacts) -> Iterator[Seen]:
    seen: dict[tuple[str, str, str, int, tuple[int, ...]], Sample] = {}
    repeated = different = 0
    names: list[str] = []
    for sample in facts.samples.all():
        if not sample.has_verdict:
            continue
        # Not the text alone, which has no EOS; of the same row, for another one may have another reference.
        key = (sample.prompt_id, sample.prompt, sample.completion, sample.length, sample.tokens)
        first = seen.setdefault(key, sample)
        if first is sample or first.finish_reason != sample.finish_reason:
            continue
        repeated += 1
        if abs((first.score or 0.0) - (sample.score or 0.0)) > 1e-6:
            different += 1
            names += [f"{first.name} and {sample.name}"] if len(names) < 3 else []
    # A fifth: a judge is allowed some noise, and rewards that compare a group see other groups. Of few, most.
    is_often = repeated >= REPEATED and different > 0.2 * repeated
    if is_often or (repeated >= REPEATED_FEW and different > 0.5 * repeated):
        share = different / repeated
        told = [seen_by("same completion, other verdict", share, facts.step, names)]
        summary = f"of {repeated} completions that came again {share:.0%} got another verdict"
        yield Seen(
            "reward_inconsistent", min(0.95, 0.6 + share / 2), summary, "error" if share > 0.5 else "warning", told
        )


@detector("completions that are the reference")
def rejected(facts: RunFacts) -> Iterator[Seen]:
    """The model has said what the row calls right, and got less for it than for other answers."""
    if not facts.is_rl:
        return
    answers = {row.id: row.answer.strip() for row in rows_of(facts, "train") if row.answer.strip()}
    judged = [sample for sample in facts.samples.all() if sample.has_verdict and sample.prompt_id in answers]
    right = [sample for sample in judged if sample.completion.strip() == answers[sample.prompt_id]]
    wrong = [sample.score or 0.0 for sample in judged if sample.completion.strip() != answers[sample.prompt_id]]
    # Of a reward of several parts the reference may well miss one; which part counts is another question.
    if len(right) < REPEATED or len(wrong) < REPEATED or any(len(sample.parts) > 1 for sample in right):
        return
    paid, others = statistics.fmean(sample.score or 0.0 for sample in right), statistics.fmean(wrong)
    width = max([*wrong, paid]) - min([*wrong, paid])
    if paid > others - REJECTED * width:
        return
    told = [seen_by("mean reward of the reference itself", paid, right[-1].step, [s.name for s in right[-3:]])]
    told.append(seen_by("mean reward of other completions", others))
    told.append(seen_by("one of them", f"{right[-1].prompt[-40:]!r} -> {right[-1].completion[:60]!r}", right[-1].step))
    summary = f"{len(right)} completions are exactly their row's reference and got {paid:.3g}, others {others:.3g}"
    yield Seen("verifier_rejects_references", 0.9, summary, evidence=told, before=1)


@detector("groups that teach nothing")
def zero_variance(facts: RunFacts) -> Iterator[Seen]:
    share = facts.series("groups/zero_variance")
    values = [value for _, value in share]
    if len(values) < SURE_STEPS or median(values[-SURE_STEPS:]) < DEAD_GROUPS:
        return
    reward = facts.trend("reward/mean")
    best = max((sample.score or 0.0 for sample in facts.samples.all() if sample.has_verdict), default=1.0)
    level = reward.last / best if reward and best > 0 else 0.0
    told = [seen_by("groups/zero_variance", median(values[-SURE_STEPS:]), facts.step)]
    told += [seen_by("reward/mean", reward.last, facts.step)] if reward else []
    rose = reward is not None and reward.rises
    if level > 0.9:
        # A run that came there by itself has learned its task: that is success, not a fault.
        severity = "info" if rose else "error"
        yield Seen("too_easy", 0.8, f"{values[-1]:.0%} of the groups succeed as a whole", severity, told)
    elif level < 0.1:
        yield Seen("too_hard", 0.8, f"{values[-1]:.0%} of the groups fail as a whole", "error", told)
    else:
        severity = "info" if rose and level > 0.5 else "error"
        yield Seen("zero_variance", 0.7, f"{values[-1]:.0%} of the groups have one reward", severity, told)


@detector("the size of the groups")
def small_groups(facts: RunFacts) -> Iterator[Seen]:
    """Most groups have one reward only because they are small: the same verdicts in larger ones would differ."""
    size = int(facts.setting("rollout.group_size", USUAL_GROUP) or USUAL_GROUP)
    shares, means = facts.values("groups/zero_variance"), facts.values("reward/mean")
    if not facts.is_rl or not 1 < size <= SMALL_GROUP or len(shares) < SURE_STEPS or median(shares) < DULL:
        return
    scores = {round(sample.score or 0.0, 9) for sample in facts.samples.all() if sample.has_verdict}
    if len(scores) != 2:  # of a reward of many values no share can be worked out
        return
    low, high = min(scores), max(scores)
    chance = (median(means) - low) / (high - low)
    larger = chance**USUAL_GROUP + (1 - chance) ** USUAL_GROUP
    # Where prompts are of very different difficulty, more groups are alike than this, and larger ones would be too.
    expected = chance**size + (1 - chance) ** size
    if not 0 < chance < 1 or larger > median(shares) / 2 or median(shares) > expected + LIKE_EXPECTED:
        return
    told = [seen_by("groups/zero_variance, median", median(shares), facts.step)]
    told += [seen_by("rollout.group_size", size), seen_by("reward/mean, median", median(means), facts.step)]
    summary = f"{median(shares):.0%} of the groups of {size} have one reward; of groups of {USUAL_GROUP} with as many "
    summary += f"right answers it would be about {larger:.0%}"
    advice = f"set rollout.group_size to {USUAL_GROUP} or more, with fewer prompts a step for the same work"
    numbers = {"group_size": str(USUAL_GROUP)}
    yield Seen("zero_variance", 0.75, summary, "warning", told, next=advice, numbers=numbers, before=1)


@detector("groups of one completion")
def one_seed(facts: RunFacts) -> Iterator[Seen]:
    """A policy that is unsure and yet draws the same again and again: the draws of a group are not independent."""
    groups: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for sample in facts.samples.all():
        if sample.tokens and sample.rollout_logprobs:
            groups[sample.step, sample.prompt_id].append(sample)
    whole = [group for group in groups.values() if len(group) > 1]
    # Under a chance of 1 in 20 that one draw is like another hardly any group of four would be of one text.
    unsure = [group for group in whole if sum(group[0].rollout_logprobs) < UNSURE]
    same = [group for group in unsure if len({sample.tokens for sample in group}) == 1]
    if len(unsure) >= SURE_STEPS and len(same) > 0.5 * len(unsure):
        told = [seen_by("groups of one text", len(same) / len(unsure), samples=[s.name for s in same[0][:3]])]
        told.append(seen_by("log-prob of that text", sum(same[0][0].rollout_logprobs), same[0][0].step))
        summary = f"{len(same) / len(unsure):.0%} of the groups hold one text many times, and an unlikely one"
        advice = "look at the seeds of the samples: each of a group needs its own"
        yield Seen("zero_variance", 0.93, summary, evidence=told, next=advice, before=1)


@detector("the course of the reward")
def course(facts: RunFacts) -> Iterator[Seen]:
    reward = facts.trend("reward/mean")
    if reward is None or not facts.is_rl:
        return
    told = [seen_by("reward/mean at first", reward.first), seen_by("reward/mean at last", reward.last, facts.step)]
    if reward.steps >= 10 and reward.falls and reward.last < 0.8 * reward.first and reward.first > 0:
        summary = f"the training reward fell from {reward.first:.3g} to {reward.last:.3g}"
        yield Seen("reward_falls", 0.7, summary, evidence=told)
    series = facts.series("reward/mean")
    means = [(step, sum(value for _, value in series[at : at + WINDOW]) / WINDOW)
             for at, (step, _) in enumerate(series[: -WINDOW + 1])]  # fmt: skip
    peak = max(means, key=lambda point: point[1], default=(0, 0.0))
    fell = trend([point for point in series if point[0] >= peak[0]])
    if reward.steps >= FLAT_STEPS and peak[1] > 0 and fell and fell.falls and fell.last < FALLEN * peak[1]:
        told = [seen_by("reward/mean, best five steps", peak[1], peak[0]), told[1]]
        summary = f"the training reward fell from {peak[1]:.3g} around step {peak[0]} to {fell.last:.3g}"
        yield Seen("reward_falls", 0.75, summary, evidence=told, before=peak[0])
    best = max((sample.score or 0.0 for sample in facts.samples.all() if sample.has_verdict), default=1.0)
    if reward.steps >= FLAT_STEPS and abs(reward.deviations) < 2 and reward.last < 0.9 * best:
        summary = f"the reward stays at {reward.last:.3g} over {reward.steps} steps"
        yield Seen("reward_flat", 0.5, summary, "warning", told)


@detector("whether what was rewarded becomes likelier")
def direction(facts: RunFacts) -> Iterator[Seen]:
    """Tokens that were drawn at two steps in a row: their advantage against how their log-prob moved."""
    pairs = moved_tokens(facts)
    if len(pairs) < PAIRS:
        return
    related = correlation(pairs)
    told = [seen_by("correlation of advantage and change of log-prob", related, facts.step)]
    told.append(seen_by("changes that were compared", len(pairs)))
    reward = facts.trend("reward/mean")
    # Healthy runs lie between 0.05 and 0.7; the noise of 200 pairs is 0.07.
    if related < -0.15 and not (reward and reward.rises):
        summary = f"what was rewarded has become less likely (correlation {related:.2f})"
        yield Seen("learns_backwards", min(0.95, 0.75 - related / 2), summary, evidence=told, before=1)


def moved_tokens(facts: RunFacts) -> list[tuple[float, float]]:
    """(mean advantage, change of mean log-prob until the next step) of each token that was drawn often at both.

    Over all prompts and places: the same prompt seldom comes again, the same tokens always do.
    """
    known: dict[int, tuple[int, float, float]] = {}
    pairs: list[tuple[float, float]] = []
    for step in facts.samples.steps():
        now: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for sample in facts.samples.of_step(step):
            if sample.advantage is not None:
                for token, logprob in zip(sample.tokens, sample.rollout_logprobs, strict=False):
                    now[token].append((logprob, sample.advantage))
        for token, values in now.items():
            if len(values) < OFTEN:
                continue
            logprob = sum(value for value, _ in values) / len(values)
            advantage = sum(value for _, value in values) / len(values)
            if token in known and known[token][0] == step - 1 and known[token][2] != 0.0:
                pairs.append((known[token][2], logprob - known[token][1]))
            known[token] = (step, logprob, advantage)
    return pairs


def _waits(facts: RunFacts) -> list[Evidence]:
    """How long the rewards of a step take, where it is near their deadline."""
    limit = float(facts.setting("reward.timeout_seconds", 30.0))
    waited = median(facts.values("time/reward"))
    return [seen_by("time/reward, median", waited, facts.step)] if waited > 0.8 * limit else []
