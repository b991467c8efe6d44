"""What the drawn completions of a step teach: advantages, pairs or examples, as the algorithm's `lesson` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.data.examples import as_example, row_example
from oxrl_core.rewards.shaping import RunningMoments, shape
from oxrl_core.train.credit import give_credit, needs_measurement
from oxrl_core.train.draw import Drawn
from oxrl_core.train.verdicts import reward_of
from oxrl_core.types import Credit, Example, Metrics, PairExample, Rollout

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.train.learner import Learner


@dataclass
class Lesson:
    """What the learner gets of a step: rollouts with their credits, or examples or pairs."""

    rollouts: list[Rollout]  # those it was made of, in the order of `credits` where there are any
    credits: list[Credit] = field(default_factory=list)
    examples: list[Example] | list[PairExample] | None = None  # none: it learns from rollouts and credits
    metrics: Metrics = field(default_factory=dict)


def make_lesson(drawn: Drawn, config: Config, learner: Learner, moments: RunningMoments) -> Lesson:
    """The lesson of a step's draw. `moments` are those of all rewards of the run so far."""
    return LESSONS[get_algorithm(config.algorithm.name).lesson](drawn, config, learner, moments)


def _advantages(drawn: Drawn, config: Config, learner: Learner, moments: RunningMoments) -> Lesson:
    rollouts = [rollout for group in drawn.groups for rollout in group]
    rewards = shape(rollouts, config.reward, config.rollout.max_completion_tokens, moments)
    measurements = learner.measure(rollouts) if rollouts and needs_measurement(config) else None
    credits = give_credit(drawn.groups, rewards, measurements, config.algorithm)
    metrics = {"reward/shaped": sum(rewards) / len(rewards)} if rewards else {}
    if config.rollout.drop_truncated:
        # A row that is not there counts neither in the sum nor in what it is divided by.
        whole = [at for at, rollout in enumerate(rollouts) if rollout.finish_reason == "stop"]
        metrics["selection/kept"] = len(whole) / max(len(rollouts), 1)
        rollouts, credits = [rollouts[at] for at in whole], [credits[at] for at in whole]
    return Lesson(rollouts, credits, metrics=metrics)


def _kept(drawn: Drawn, config: Config, *_: object) -> Lesson:
    """The completions that are good enough, at most so many of a prompt, each text once (arXiv:2308.01825)."""
    kept: list[Rollout] = []
    for group in drawn.groups:
        good = {tuple(r.token_ids): r for r in reversed(group) if reward_of(r) >= config.selection.reward_threshold}
        best = sorted(good.values(), key=lambda rollout: (-reward_of(rollout), rollout.sample_index))
        kept += best[: config.selection.max_per_prompt]
    share = len(kept) / max(sum(len(group) for group in drawn.groups), 1)
    return Lesson(kept, examples=[as_example(rollout) for rollout in kept], metrics={"selection/kept": share})


def _best_and_worst(drawn: Drawn, config: Config, learner: Learner, moments: RunningMoments) -> Lesson:
    """The best and the worst completion of each prompt; a prompt whose rewards tie teaches nothing."""
    used: list[Rollout] = []
    pairs: list[PairExample] = []
    rollouts = [rollout for group in drawn.groups for rollout in group]
    rewards = iter(shape(rollouts, config.reward, config.rollout.max_completion_tokens, moments))
    for group in drawn.groups:
        judged = [(next(rewards), rollout) for rollout in group]
        (high, best), (low, worst) = max(judged, key=itemgetter(0)), min(judged, key=itemgetter(0))
        if high - low > config.selection.min_margin:
            used += [best, worst]
            pairs.append(PairExample(as_example(best), as_example(worst), high - low))
    return Lesson(used, examples=pairs, metrics={"selection/kept": len(pairs) / max(len(drawn.groups), 1)})


def _self_play(drawn: Drawn, *_: object) -> Lesson:
    """The row's completion against one that the policy drew (SPIN); two that are the same teach nothing."""
    used: list[Rollout] = []
    pairs: list[PairExample] = []
    for group in drawn.groups:
        for rollout in group:
            if rollout.token_ids != rollout.prompt.completion_ids:
                used.append(rollout)
                pairs.append(PairExample(row_example(rollout.prompt), as_example(rollout)))
    return Lesson(used, examples=pairs, metrics={"selection/kept": len(pairs) / max(len(drawn.rollouts), 1)})


def _mixed(drawn: Drawn, *_: object) -> Lesson:
    """The student's own completions beside those of the rows that were not drawn (GKD)."""
    examples = [as_example(rollout) for rollout in drawn.rollouts] + [row_example(prompt) for prompt in drawn.undrawn]
    return Lesson(list(drawn.rollouts), examples=examples)


LESSONS: dict[str, Callable[..., Lesson]] = {
    "advantages": _advantages,
    "kept": _kept,
    "best_and_worst": _best_and_worst,
    "self_play": _self_play,
    "mixed": _mixed,
}
