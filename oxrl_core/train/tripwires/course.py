"""Tripwires on the course of the metrics over the steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from oxrl_core.train.tripwires.base import Finding, Wire, mean, median, sample_names

if TYPE_CHECKING:
    from oxrl_core.train.report import StepReport
    from oxrl_core.types import Rollout

KL_TIMES = 10.0  # over tripwires.kl_target
ENTROPY_START = 3  # steps whose mean is the entropy at the start
ENTROPY_LOW, ENTROPY_HIGH = 0.1, 1.5  # shares of it
REWARDS = 10  # steps: the reward of the newer half is compared with what was before
SPIKE_WINDOW, SPIKE_MINIMUM = 20, 8  # steps before a gradient that it is compared with: most, least
SPIKE_Z, SPIKE_TIMES = 10.0, 4.0  # robust deviations above the median, and times the median: both
SPEED_WINDOW, SPEED_MINIMUM, SLOW_STEPS = 50, 20, 5
SLOW = 0.5  # of the median


class KlHigh(Wire):
    """The policy has left its reference."""

    code = "kl_high"

    def look(self, report: StepReport) -> Finding | None:
        kl, wires = report.metrics.get("kl/ref"), self.config.tripwires
        if kl is None:
            return None
        limit = min(wires.kl_limit, KL_TIMES * wires.kl_target if wires.kl_target is not None else math.inf)
        if kl <= limit:
            return None
        return Finding(
            f"the KL to the reference is {kl:.3g} a token at step {report.step} (limit {limit:.3g})",
            "raise algorithm.kl_coef or lower train.lr; go on from a checkpoint before it rose (oxrl fork)",
            metric="kl/ref",
            value=kl,
            limit=limit,
            samples=sample_names(report.step, _strongest(report)),
            badness=kl / limit,
        )


class Entropy(Wire):
    """The entropy at the start, and whether the reward still rises; both wires below read them."""

    def share_of_start(self, report: StepReport) -> tuple[float, float] | None:
        """The entropy, and the entropy at the start; None before that is known."""
        entropy = report.metrics.get("entropy")
        if entropy is None:
            return None
        start: list[float] = self.memory.setdefault("start", [])
        if len(start) < ENTROPY_START:
            start.append(entropy)
            return None
        return entropy, mean(start)

    def reward_trend(self, report: StepReport) -> float:
        """Mean reward of the newer half of the last steps minus that of the older half; 0 before there are enough."""
        if "reward/mean" not in report.metrics:
            return 0.0
        rewards = self.window("rewards", report.metrics["reward/mean"], REWARDS)
        half = REWARDS // 2
        return mean(rewards[half:]) - mean(rewards[:half]) if len(rewards) == REWARDS else 0.0


class EntropyLow(Entropy):
    """The policy has nearly stopped trying anything while its reward does not rise."""

    code = "entropy_low"

    def look(self, report: StepReport) -> Finding | None:
        trend, known = self.reward_trend(report), self.share_of_start(report)
        if known is None:
            return None
        entropy, start = known
        # At full marks there is nothing left to try.
        is_done = report.metrics.get("reward/mean", 0.0) >= 0.99 or trend > 0
        if start <= 0 or entropy >= ENTROPY_LOW * start or is_done:
            return None
        return Finding(
            f"the entropy is {entropy:.3g} at step {report.step}, {entropy / start:.0%} of its start, and the "
            "reward does not rise",
            "set algorithm.entropy_coef, raise clip_high, lower train.lr, or go on from an earlier step (oxrl fork)",
            metric="entropy",
            value=entropy,
            limit=ENTROPY_LOW * start,
            badness=ENTROPY_LOW * start / max(entropy, 1e-9),
        )


class EntropyHigh(Entropy):
    """The policy dissolves: it becomes ever less certain, and its reward falls."""

    code = "entropy_high"

    def look(self, report: StepReport) -> Finding | None:
        trend, known = self.reward_trend(report), self.share_of_start(report)
        if known is None:
            return None
        entropy, start = known
        if start <= 0 or entropy <= ENTROPY_HIGH * start or trend >= 0:
            return None
        return Finding(
            f"the entropy is {entropy:.3g} at step {report.step}, {entropy / start:.1f} times its start, and the "
            "reward falls",
            "lower algorithm.entropy_coef or train.lr; check that trainer and sampler agree (gap/mean)",
            metric="entropy",
            value=entropy,
            limit=ENTROPY_HIGH * start,
            badness=entropy / (ENTROPY_HIGH * start),
        )


class GradientSpike(Wire):
    """A gradient far above those of the steps before it."""

    code = "gradient_spike"

    def look(self, report: StepReport) -> Finding | None:
        norm = report.metrics.get("grad_norm")
        if norm is None or not math.isfinite(norm):
            return None
        before: list[float] = list(self.memory.get("norms", []))
        self.window("norms", norm, SPIKE_WINDOW)
        if len(before) < SPIKE_MINIMUM:
            return None
        middle = median(before)
        spread = 1.4826 * median([abs(value - middle) for value in before])  # the deviation of a normal distribution
        limit = max(middle + SPIKE_Z * spread, SPIKE_TIMES * middle)
        if norm <= limit or middle == 0:
            return None
        return Finding(
            f"the gradient norm of step {report.step} is {norm:.3g}; the median of the {len(before)} steps before is "
            f"{middle:.3g}",
            "look at the samples of this step (oxrl rollouts RUN --step N --sort advantage); lower train.max_grad_norm",
            metric="grad_norm",
            value=norm,
            limit=limit,
            samples=sample_names(report.step, _strongest(report)),
            parameters=list(self.facts.largest_gradients()),
            badness=norm / limit,
        )


class LrFloor(Wire):
    """The learning rate has fallen as far as it will, and many steps are left."""

    code = "lr_floor"

    def look(self, report: StepReport) -> Finding | None:
        rate, train = report.metrics.get("lr"), self.config.train
        if rate is None or report.step >= 0.95 * self.facts.total_steps:
            return None
        is_falling = train.lr_schedule != "constant" and report.step > train.warmup_steps
        floor = train.lr_floor * train.lr
        if rate > (floor * (1 + 1e-6) if is_falling else 0.0):
            return None
        return Finding(
            f"the learning rate is at its floor ({rate:.3g}) at step {report.step} of {self.facts.total_steps}",
            "set train.lr_schedule: constant, or a train.lr_floor that still learns",
            metric="lr",
            value=rate,
            limit=floor,
        )


class SlowStep(Wire):
    """Throughput has collapsed: five steps in a row at less than half of the usual tokens per second."""

    code = "slow_step"

    def look(self, report: StepReport) -> Finding | None:
        speed = report.metrics.get("tokens_per_second")
        if not speed:  # a step that trained on nothing has none
            return None
        speeds = self.window("speeds", speed, SPEED_WINDOW)
        usual = median(speeds[:-SLOW_STEPS]) if len(speeds) >= SPEED_MINIMUM + SLOW_STEPS else 0.0
        if max(speeds[-SLOW_STEPS:]) >= SLOW * usual:
            return None
        times = {name: value for name, value in report.metrics.items() if name.startswith("time/")}
        longest = max(times, key=lambda name: times[name], default="")
        where = f"; most of step {report.step} is {longest} ({times[longest]:.1f} s)" if longest else ""
        return Finding(
            f"the last {SLOW_STEPS} steps trained {max(speeds[-SLOW_STEPS:]):.3g} tokens a second at most, usually "
            f"it is {usual:.3g}{where}",
            "look at the machine (another job, swapping, a slow judge) and at completion/length",
            metric="tokens_per_second",
            value=speed,
            limit=SLOW * usual,
            badness=usual / speed,
        )


class RewardFlat(Wire):
    """The answers' reward stays at zero while the form is rewarded: the verifier never finds the answer right."""

    code = "reward_flat"

    def look(self, report: StepReport) -> Finding | None:
        parts: dict[str, list[float]] = {}
        for rollout in report.drawn:
            for name, value in rollout.score.parts.items() if rollout.score is not None else ():
                parts.setdefault(name, []).append(value)
        form = [mean(values) for name, values in parts.items() if "format" in name]
        rest = [max(map(abs, values)) for name, values in parts.items() if "format" not in name]
        if not form or max(form) <= 0:
            self.memory["steps"] = 0
            return None
        rewards = [rollout.score.value for rollout in report.drawn if rollout.score is not None]
        is_flat = max(rest) == 0 if rest else max(map(abs, rewards)) == 0
        self.memory["steps"] = int(self.memory.get("steps", 0)) + 1 if is_flat else 0
        steps = self.config.tripwires.reward_flat_steps
        if self.memory["steps"] < steps:
            return None
        return Finding(
            f"for {self.memory['steps']} steps no answer was right, while the form is (format {max(form):.2g}): the "
            "answer column or the extractor may be wrong",
            "score a reference by hand (oxrl score), and check answer_column and reward.name",
            metric="reward/mean",
            value=report.metrics.get("reward/mean"),
            limit=0.0,
            samples=sample_names(report.step, report.drawn),
        )


def _strongest(report: StepReport) -> list[Rollout]:
    """The rollouts of the step that push hardest: largest sum of |advantage| first."""
    pushes = [
        (sum(map(abs, credit.advantages)), rollout)
        for rollout, credit in zip(report.rollouts, report.credits, strict=False)
    ]
    return [rollout for _, rollout in sorted(pushes, key=lambda push: -push[0])]
