"""The drawing of a step: prompts to completions to verdicts, again where the algorithm wants prompts that teach."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import JUDGED_LESSONS, get_algorithm
from oxrl_core.rollout.verify import check_versions
from oxrl_core.train.report import Clock
from oxrl_core.train.verdicts import groups_of, reward_of
from oxrl_core.types import Progress, Prompt, Rollout

if TYPE_CHECKING:
    from oxrl_core.build import RlParts


@dataclass
class Drawn:
    """The completions of a step."""

    rollouts: list[Rollout] = field(default_factory=list)  # all that were drawn
    groups: list[list[Rollout]] = field(default_factory=list)  # those that can teach, prompt by prompt
    undrawn: list[Prompt] = field(default_factory=list)  # rows whose own completion is learned from instead
    num_draws: int = 0


class Draws:
    """The draws of a run's steps, each when it is asked for. The next step's may come about meanwhile: Pipeline."""

    def next(self, parts: RlParts, progress: Progress, clock: Clock) -> Drawn:
        """The completions of the step that comes now."""
        return draw(parts, progress, clock)

    def settle(self, clock: Clock) -> None:
        """Returns once nothing is being drawn: then the sampler may get other weights."""

    def save(self, folder: Path) -> None:
        """Writes what is drawn already and not learned from into a checkpoint."""

    def load(self, folder: Path) -> None:
        """Takes it up again."""

    def forget(self) -> None:
        """Lets it go: the run goes on in another way than the one that drew it."""

    def close(self) -> None:
        """Ends what is being drawn."""


def draw(parts: RlParts, progress: Progress, clock: Clock) -> Drawn:
    """The completions of one step, judged where the lesson needs a verdict.

    With dynamic sampling (arXiv:2503.14476, section 3.2) prompts whose completions all have the same reward are
    replaced by others, until the step is full or has drawn `rollout.max_draws` times. The reward that counts here is
    the verdict itself: a length penalty would make every group look as if it could teach.
    """
    config = parts.config
    is_judged = get_algorithm(config.algorithm.name).lesson in JUDGED_LESSONS
    compares_groups = config.algorithm.advantage not in ("returns", "gae")
    drawn = Drawn()
    wanted = config.train.prompts_per_step
    while drawn.num_draws == 0 or (len(drawn.groups) < wanted and drawn.num_draws < config.rollout.max_draws):
        prompts = parts.stream.take(wanted - len(drawn.groups))
        num_drawn = round(config.rollout.drawn_share * len(prompts))
        with clock("time/generate"):
            rollouts = parts.sampler.generate(
                prompts[:num_drawn],
                group_size=config.rollout.group_size,
                temperature=config.rollout.temperature,
                max_tokens=config.rollout.max_completion_tokens,
                # Each draw of a step has seeds of its own, should it meet the same prompt again.
                step=progress.step + drawn.num_draws * SEED_STRIDE,
            )
        check_versions(rollouts, progress.synced_step)
        for rollout in rollouts:
            rollout.draw = drawn.num_draws
        if is_judged:
            with clock("time/reward"):
                parts.judge(rollouts)
        groups = groups_of(rollouts, config.rollout.group_size, is_judged=is_judged, compares=compares_groups)
        if config.rollout.dynamic_sampling:
            groups = [group for group in groups if len({reward_of(rollout) for rollout in group}) > 1]
        drawn.rollouts += rollouts
        drawn.groups += groups
        drawn.undrawn += prompts[num_drawn:]
        drawn.num_draws += 1
        if not config.rollout.dynamic_sampling:
            break
    return drawn


SEED_STRIDE = 2**32  # far above any number of steps
