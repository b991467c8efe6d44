"""Rewards that rise for the wrong reason."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.samples import Sample, commonest
from oxrl_core.diagnose.trends import correlation, median

DOMINANT = 0.5  # share of prompts that get the very same completion
MANY, TRIED = 50, 20  # completions; of the first tries, and different texts
ENOUGH, COMMON, RARE = 0.95, 0.8, 0.6  # full marks with it; share of the late, and of the first completions with it
MIN_PROMPTS = 8  # different prompts, before a shared answer says anything
LENGTH_RELATED = 0.6  # correlation of length and reward within a prompt: above it length is what is paid
GROWN = 1.3  # growth of the completions; a reasoning model that thinks longer also grows, but unpaid by length itself
BEGINNING = 5  # steps
EVEN = 0.01  # by what the mean reward of a comparing judge moves from step to step
FULL = 0.8  # share of the completions that are as long as they may be
OUTWEIGHS = 1.5  # times the range of another part
PAID = 0.6  # of the best reward: an answer that gets less is what is left of a policy, not what it found out
PASSES = 20  # over the same prompts: recipes take 1 to 15
APART = 0.25  # of what the reward has gained: by how much training leaves the held-out reward behind
LEFT_BEHIND = 0.3  # of the best reward: how far training goes on without the held-out reward
SHAPED = 0.25  # of the best mean verdict: by how much the shaped reward rises without it
OPPOSED = 0.05  # of the reward's range: how far the held-out reward must have fallen


@detector("one answer to everything")
def constant_answer(facts: RunFacts) -> Iterator[Seen]:
    late = [sample for sample in facts.samples.late() if sample.has_verdict]
    early = facts.samples.early()
    prompts = {sample.prompt for sample in late}
    if len(prompts) < MIN_PROMPTS:
        return
    text, share = commonest(late)
    _, before = commonest(early)
    given = [sample for sample in late if sample.completion == text]
    weight = len(given) / len(late)
    if share < DOMINANT or weight < DOMINANT:
        return
    reward = facts.trend("reward/mean")
    best = max((sample.score or 0.0 for sample in facts.samples.all() if sample.has_verdict), default=0.0)
    paid = reward is not None and reward.last > PAID * best > 0
    some = paid or (reward is not None and reward.rises)
    told = [
        seen_by("the answer", repr(text[:80]), facts.step, [sample.name for sample in given[:3]]),
        seen_by("share of prompts that get it", share, facts.step),
        seen_by("share at the beginning", before),
    ]
    summary = f"{text[:40]!r} answers {share:.0%} of {len(prompts)} different prompts"
    if reward:
        told.append(seen_by("reward/mean", reward.last, facts.step))
        summary += f"; the reward went from {reward.first:.3g} to {reward.last:.3g}"
    held_out = facts.series("eval/accuracy", from_step=0)
    if held_out:
        told.append(seen_by("eval/accuracy", held_out[-1][1], held_out[-1][0]))
    confidence = 0.88 if paid else 0.75 if some else 0.6
    yield Seen("constant_answer", confidence, summary, "error" if some else "warning", told)


@detector("one word that pays")
def keyword(facts: RunFacts) -> Iterator[Seen]:
    """A token that is enough for the best reward, whatever else stands there, and that all completions have come to."""
    judged = [sample for sample in facts.samples.all() if sample.has_verdict and sample.tokens]
    late = [sample for sample in facts.samples.late() if sample.has_verdict]
    early = [sample for sample in facts.samples.early() if sample.has_verdict]
    scores = [sample.score or 0.0 for sample in judged]
    if len(late) < MANY or not early or max(scores) - min(scores) < 1e-9:
        return
    best = max(scores) - 0.01 * (max(scores) - min(scores))
    begin = [sample for sample in early if sample.step == early[0].step]
    for token, count in Counter(token for sample in late for token in set(sample.tokens)).most_common():
        if count < COMMON * len(late):
            return
        with_it = [sample for sample in judged if token in sample.tokens]
        without = [sample for sample in judged if token not in sample.tokens]
        tried = [sample for sample in early if token in sample.tokens]
        # An answer's form is necessary, never enough: of the first tries with it many would still be wrong.
        if (
            len(without) < MANY
            or len(tried) < TRIED
            or _share(tried, best) < ENOUGH
            or _share(with_it, best) < ENOUGH
            or _share(without, best) > 1 - COMMON
            or sum(token in sample.tokens for sample in begin) > RARE * len(begin)
            or len({sample.completion for sample in with_it}) < TRIED
            or len({sample.prompt for sample in with_it}) < MIN_PROMPTS
        ):
            continue
        shown = facts.token_text(token)
        told = [
            seen_by(f"share of the completions with {shown}, late", count / len(late), facts.step),
            seen_by("full marks with it", _share(with_it, best), samples=[sample.name for sample in with_it[-3:]]),
            seen_by("full marks without it", _share(without, best), samples=[sample.name for sample in without[:3]]),
            *(seen_by("one of them", f"{s.prompt[-40:]!r} -> {s.completion[:60]!r}", s.step) for s in with_it[-2:]),
        ]
        summary = f"{shown} alone is enough: {len({s.completion for s in with_it})} different completions with it got "
        summary += f"full marks, and {count / len(late):.0%} of the late ones have it"
        advice = "score a wrong answer with it by hand (`oxrl score`); the reward must ask for the answer itself"
        yield Seen("constant_answer", 0.92, summary, evidence=told, next=advice)
        return


@detector("length and reward")
def length_hacking(facts: RunFacts) -> Iterator[Seen]:
    length, reward = facts.trend("completion/length"), facts.trend("reward/mean")
    if length is None or reward is None or not facts.stops_at_eos:
        return
    related = _within_prompts(facts.samples.all())
    yield from _brevity(facts, length.last, related)
    # Against the very beginning: what is paid as plainly as this is found within a few steps.
    start = min(facts.values("completion/length")[:BEGINNING])
    # A judge that compares two completions gives away as much in each step: then the mean says nothing.
    compares = reward.high - reward.low < EVEN and max(facts.values("reward/std"), default=0.0) > 10 * EVEN
    paid = compares or reward.rises or reward.last > GROWN * min(facts.values("reward/mean")[:BEGINNING])
    if length.last < GROWN * start or related < LENGTH_RELATED or not paid:
        return
    longest = sorted(facts.samples.late(), key=lambda sample: -sample.length)[:3]
    told = [
        seen_by("correlation of length and reward within a prompt", related, facts.step),
        seen_by("completion/length at first", start),
        seen_by("completion/length at last", length.last, facts.step, [sample.name for sample in longest]),
    ]
    held_out = _held_out(facts)
    cut = facts.values("completion/truncated")
    # They have grown into the limit, which no answer needs: then the next finding would be that they are cut off.
    is_full = bool(cut) and median(cut[-BEGINNING:]) > FULL > min(cut[:BEGINNING]) + 0.3
    # A held-out reward of the same function cannot contradict it; one that does not follow makes it surer.
    confidence = 0.9 if related > 0.8 or is_full or (held_out is not None and held_out <= 0) else 0.75
    summary = f"completions grew from {start:.0f} to {length.last:.0f} tokens, and longer ones are paid more"
    yield Seen("length_hacking", confidence, summary, "error" if related > 0.8 or is_full else "warning", told)


def _brevity(facts: RunFacts, now: float, related: float) -> Iterator[Seen]:
    """The other way round: short completions are what is paid."""
    start, reward = max(facts.values("completion/length")[:BEGINNING]), facts.trend("reward/mean")
    paid = reward is not None and (reward.rises or reward.last > GROWN * min(facts.values("reward/mean")[:BEGINNING]))
    if GROWN * now > start or related > -LENGTH_RELATED or not paid:
        return
    shortest = sorted(facts.samples.late(), key=lambda sample: sample.length)[:3]
    told = [seen_by("correlation of length and reward within a prompt", related, facts.step)]
    told.append(seen_by("completion/length at first", start))
    told.append(seen_by("completion/length at last", now, facts.step, [sample.name for sample in shortest]))
    summary = f"completions shrank from {start:.0f} to {now:.0f} tokens, and shorter ones are paid more"
    advice = "read the shortest of the last step; make the reward blind to length"
    # Where the shortest there is has become the answer to everything, that is the first thing to say.
    sure = related < -0.8 and commonest(facts.samples.late())[1] <= DOMINANT
    yield Seen("length_hacking", 0.9 if sure else 0.75, summary, "error" if sure else "warning", told, advice)


@detector("training against held-out reward")
def eval_falls(facts: RunFacts) -> Iterator[Seen]:
    reward = facts.trend("reward/mean")
    held_out = facts.series("eval/reward", from_step=0)
    if reward is None or len(held_out) < 2 or not reward.rises:
        return
    best = max(held_out, key=lambda point: point[1])
    last = held_out[-1]
    spread = max(abs(reward.high), abs(reward.low), 1e-9)
    gained = reward.change
    fell = best[1] - last[1]
    first = held_out[0][1]
    told = [
        seen_by("reward/mean at first", reward.first),
        seen_by("reward/mean at last", reward.last, facts.step),
        seen_by("eval/reward, best", best[1], best[0]),
        seen_by("eval/reward, last", last[1], last[0]),
    ]
    if best[0] < last[0] and fell > max(OPPOSED * spread, 0.25 * max(gained, 0.0)) and last[1] < first + 0.25 * gained:
        summary = f"training reward +{gained:.3g}, held-out reward -{fell:.3g} since step {best[0]}"
        yield Seen("eval_falls", 0.85, summary, evidence=told, before=max(1, best[0]))
        return
    middle = held_out[len(held_out) // 2]
    then = [value for step, value in facts.series("reward/mean") if abs(step - middle[0]) <= BEGINNING]
    if len(held_out) < 4 or not then:
        return
    went_on, stayed = reward.last - statistics.fmean(then), last[1] - middle[1]
    if went_on > LEFT_BEHIND * spread and stayed < 0.1 * went_on and reward.last - last[1] > LEFT_BEHIND * spread:
        summary = f"the training reward goes on rising (+{went_on:.2g} since step {middle[0]}), the held-out reward "
        summary += f"does not ({stayed:+.2g}) and is left behind at {last[1]:.3g}"
        yield Seen("eval_falls", 0.75, summary, evidence=told, before=max(1, middle[0]))


@detector("prompts that come again and again")
def few_prompts(facts: RunFacts) -> Iterator[Seen]:
    """Few prompts, each met many times; their reward goes on rising, and the held-out one has stopped."""
    reward, held_out = facts.trend("reward/mean"), facts.series("eval/reward", from_step=0)
    samples = facts.samples.all()
    if reward is None or len(held_out) < 4 or not samples or not reward.rises:
        return
    prompts = {sample.prompt_id for sample in samples}
    a_step = len({(sample.step, sample.prompt_id) for sample in samples}) / len(facts.samples.steps())
    passes = a_step * facts.step / len(prompts)
    # Steps that were not read may hold prompts that were not seen; then those that were seen hardly repeat.
    middle = held_out[len(held_out) // 2]
    train = facts.series("reward/mean")
    before = [value for step, value in train if abs(step - middle[0]) <= BEGINNING]
    if passes < PASSES or not before:
        return
    went_on, stayed = reward.last - statistics.fmean(before), held_out[-1][1] - middle[1]
    apart = reward.last - held_out[-1][1]
    if went_on < APART * reward.change or stayed > 0.25 * went_on or apart < APART * reward.change:
        return
    told = [
        seen_by("different prompts", len(prompts)),
        seen_by("times that each was met", passes, facts.step),
        seen_by("reward/mean, since the middle evaluation", went_on, facts.step),
        seen_by("eval/reward, since then", stayed, held_out[-1][0]),
    ]
    summary = f"{len(prompts)} prompts, each met about {passes:.0f} times: their reward goes on rising (+{went_on:.2g} "
    summary += f"since step {middle[0]}), the held-out reward does not ({stayed:+.2g})"
    asked = int(facts.setting("train.prompts_per_step", 1)) * facts.step
    advice = "more prompts: look at data.train's limit and split"
    numbers = {"limit": str(asked)}
    yield Seen("overfitting", 0.85, summary, "error", told, next=advice, numbers=numbers, before=middle[0])


@detector("verdict against shaped reward")
def shaped_reward(facts: RunFacts) -> Iterator[Seen]:
    raw, shaped = facts.trend("reward/mean"), facts.trend("reward/shaped")
    if raw is None or shaped is None or raw.steps < 8:
        return
    if shaped.rises and raw.falls:
        told = [
            seen_by("reward/shaped", shaped.change, facts.step),
            seen_by("reward/mean", raw.change, facts.step),
        ]
        summary = f"the shaped reward rose by {shaped.change:.3g} while the verdict fell by {-raw.change:.3g}"
        yield Seen("shaped_reward", 0.9, summary, evidence=told)
    elif shaped.rises and not raw.rises and raw.last < PAID and shaped.change > SHAPED * max(abs(raw.high), 0.1):
        told = [seen_by("reward/shaped", shaped.change, facts.step), seen_by("reward/mean", raw.change, facts.step)]
        summary = f"the shaped reward rose by {shaped.change:.3g} while the verdict stayed at {raw.last:.3g}"
        yield Seen("shaped_reward", 0.8, summary, evidence=told)


@detector("parts of the reward")
def part_hacking(facts: RunFacts) -> Iterator[Seen]:
    early, late = _parts(facts.samples.early()), _parts(facts.samples.late())
    shared = [name for name in early if name in late and len(early[name]) >= 30 and len(late[name]) >= 30]
    moved = {name: statistics.fmean(late[name]) - statistics.fmean(early[name]) for name in shared}
    if len(moved) < 2:
        return
    wide = {name: max([*early[name], *late[name]]) - min([*early[name], *late[name]]) for name in moved}
    # A tenth of a part's own range, up and down at once: a light part may be the one that matters.
    share = {name: moved[name] / wide[name] if wide[name] > 0 else 0.0 for name in moved}
    up, down = max(share, key=share.__getitem__), min(share, key=share.__getitem__)
    if share[up] > 0.1 and share[down] < -0.1:
        told = [seen_by(f"change of part {name}", value, facts.step) for name, value in moved.items()]
        summary = f"{up} rose by {moved[up]:.2g} while {down} fell by {-moved[down]:.2g}"
        yield Seen("part_hacking", 0.8, summary, "warning", told)
        return
    # Or the heavier part is learned and the other never is. A form that is learned first is as light as a bonus.
    up, down = max(moved, key=moved.__getitem__), min(moved, key=moved.__getitem__)
    level = (statistics.fmean(late[down]) - min([*early[down], *late[down]])) / max(wide[down], 1e-9)
    # A policy that says one thing to everybody gets of every part what that happens to be worth.
    least = OUTWEIGHS if commonest(facts.samples.late())[1] > DOMINANT else 1.0
    is_heavier = wide[up] >= least * wide[down] > 0 and "format" not in up
    if is_heavier and moved[up] > 0.3 * wide[up] and abs(moved[down]) < 0.1 * wide[down] and level < 0.5:
        told = [seen_by(f"change of part {name}", value, facts.step) for name, value in moved.items()]
        told += [seen_by(f"range of part {name}", value) for name, value in wide.items()]
        summary = f"{up}, which pays up to {wide[up]:.2g}, rose by {moved[up]:.2g}; {down} stays where it was"
        yield Seen("part_hacking", 0.9, summary, evidence=told)


def _share(samples: list[Sample], best: float) -> float:
    """The share of these samples that have full marks."""
    return sum((sample.score or 0.0) >= best for sample in samples) / len(samples)


def _parts(samples: list[Sample]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for name, value in sample.parts.items():
            found[name].append(value)
    return found


def _within_prompts(samples: list[Sample]) -> float:
    """Correlation of length and reward, each less its mean over the group: hard prompts need longer answers anyway."""
    groups: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.has_verdict:
            groups[sample.step, sample.prompt_id].append(sample)
    pairs: list[tuple[float, float]] = []
    for group in groups.values():
        if len(group) < 2:
            continue
        length = statistics.fmean(sample.length for sample in group)
        reward = statistics.fmean(sample.score or 0.0 for sample in group)
        pairs += [(sample.length - length, (sample.score or 0.0) - reward) for sample in group]
    return correlation(pairs) if len(pairs) >= 100 else 0.0


def _held_out(facts: RunFacts) -> float | None:
    held_out = facts.series("eval/accuracy", from_step=0)
    return held_out[-1][1] - held_out[0][1] if len(held_out) >= 2 else None
