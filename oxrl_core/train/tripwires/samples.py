"""Tripwires on what was drawn and judged, and on what of it is trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from oxrl_core.rewards.shaping import HAS_VERDICT
from oxrl_core.train.tripwires.base import NAMED, Finding, Wire, mean, median, sample_name, sample_names

if TYPE_CHECKING:
    from oxrl_core.train.report import StepReport
    from oxrl_core.types import Rollout

WINDOW = 10  # steps that a rate is averaged over before it is judged
ZERO_VARIANCE_LIMIT = 0.9
COVERAGE_DROP = 0.2  # of the usual share of trained tokens
SEEN_COVERAGES = 20
FEW_STEPS, TAUGHT_LIMIT = 3, 0.5  # steps of rows, and the least share of them that teaches its end
LESSONS_WITH_PROMPTS = ("examples", "pairs", "labeled")


class NotFinite(Wire):
    """NaN or infinity in a metric, a log-prob, a reward or an advantage."""

    code = "not_finite"

    def look(self, report: StepReport) -> Finding | None:
        found = next(_not_finite(report), None)
        metric = next((name for name, value in report.metrics.items() if not math.isfinite(value)), "")
        if found is None and not metric:
            return None
        what, sample = found if found is not None else (metric, "")
        return Finding(
            f"{what} of step {report.step} is not finite" + (f", first in sample {sample}" if sample else ""),
            "lower train.lr or use model.precision float32; look at the sample: oxrl rollouts RUN --show SAMPLE",
            level="error",
            metric=metric or what,
            samples=[sample] if sample else [],
        )


def _not_finite(report: StepReport) -> Iterator[tuple[str, str]]:
    """What is not finite, and the sample that has it. A sum is finite only if its terms are, and quick."""
    taught = list(zip(report.rollouts, report.trainer_logprobs, strict=False))
    credited = list(zip(report.rollouts, report.credits, strict=False))
    judged = [one for one in report.drawn if one.score is not None and one.score.status in HAS_VERDICT]
    looks: list[tuple[str, list[Rollout], list[float]]] = [
        ("a log-prob of the sampler", report.drawn, [sum(one.rollout_logprobs) for one in report.drawn]),
        ("a reward", judged, [one.score.value for one in judged if one.score is not None]),
        ("a log-prob of the trainer", [one for one, _ in taught], [sum(logprobs) for _, logprobs in taught]),
        ("an advantage", [one for one, _ in credited], [sum(credit.advantages) for _, credit in credited]),
    ]
    for what, rollouts, values in looks:
        if not math.isfinite(sum(values)):
            bad = (rollout for rollout, value in zip(rollouts, values, strict=True) if not math.isfinite(value))
            yield from ((what, sample_name(report.step, rollout)) for rollout in bad)


class MaskCoverage(Wire):
    """What is trained on is not what should be: exactly the completions, in RL; some of each row, elsewhere."""

    code = "mask_coverage"

    def look(self, report: StepReport) -> Finding | None:
        metrics = report.metrics
        if "num_tokens" not in metrics or metrics.get("skipped"):
            return None
        if report.trainer_logprobs:
            return self._of_completions(report)
        if report.row_facts:
            expected = sum(row.trained for row in report.row_facts)
            if metrics["num_tokens"] != expected:
                return self._of_other_tokens(report, expected)
            if expected == len(report.row_facts) * (2 if self.facts.lesson == "pairs" else 1):
                return self._of_one_token(report)
        coverage = metrics.get("mask/coverage")
        if coverage is None:
            return None
        seen = self.window("coverages", coverage, SEEN_COVERAGES)
        if coverage > 0.999 and self.facts.lesson in LESSONS_WITH_PROMPTS:
            return Finding(
                f"every token of the rows of step {report.step} is trained on, prompts too",
                "check prompt_column and completion_column (oxrl data inspect shows the masks); whole texts: cpt",
                metric="mask/coverage",
                value=coverage,
                limit=0.999,
            )
        usual = median(seen)
        if len(seen) >= WINDOW and coverage < COVERAGE_DROP * usual:
            return Finding(
                f"{coverage:.2%} of the tokens of step {report.step} are trained on, usually {usual:.1%}",
                "look at the rows of this step: oxrl rollouts RUN --step N, then oxrl data inspect",
                metric="mask/coverage",
                value=coverage,
                limit=COVERAGE_DROP * usual,
                badness=usual / max(coverage, 1e-9),
            )
        return None

    def _of_other_tokens(self, report: StepReport, expected: int) -> Finding:
        trained = report.metrics["num_tokens"]
        return Finding(
            f"step {report.step} trained on {trained:g} tokens; its rows have {expected}",
            "this is a defect of the masks; please report it with the record of this step",
            level="error",
            metric="num_tokens",
            value=trained,
            limit=float(expected),
            badness=abs(trained - expected) / max(expected, 1),
        )

    def _of_one_token(self, report: StepReport) -> Finding:
        return Finding(
            f"one token of each row of step {report.step} is trained on: an answer has at least one, and its end",
            "look at where the mask begins and ends: oxrl data inspect shows it",
            level="error",
            metric="mask/trained",
            value=1.0,
            samples=report.row_ids[:NAMED],
        )

    def _of_completions(self, report: StepReport) -> Finding | None:
        drawn = sum(len(rollout.token_ids) for rollout in report.rollouts)
        expected = float(drawn * self.config.train.passes_per_step)
        trained = report.metrics["num_tokens"]
        if trained == expected:
            return None
        wrong = [
            rollout
            for rollout, logprobs in zip(report.rollouts, report.trainer_logprobs, strict=True)
            if len(logprobs) != len(rollout.token_ids)
        ]
        return Finding(
            f"step {report.step} trained on {trained:g} tokens; its completions have {expected:g}",
            "this is a defect of the masks; please report it with the record of this step",
            level="error",
            metric="num_tokens",
            value=trained,
            limit=expected,
            samples=sample_names(report.step, wrong),
            badness=abs(trained - expected) / max(expected, 1.0),
        )


class Endings(Wire):
    """How completions end, over ten steps; both wires below read the same window."""

    def share(self, report: StepReport) -> float | None:
        """The share that was cut off; None where that says nothing, or too few steps are behind."""
        if not report.drawn or not self.config.rollout.stop_at_eos:
            return None
        cut = [float(rollout.finish_reason == "length") for rollout in report.drawn]
        shares = self.window("truncated", mean(cut), WINDOW)
        return mean(shares) if len(shares) == WINDOW else None

    def cut_off(self, report: StepReport) -> Sequence[Rollout]:
        """The completions of this step that were cut off."""
        return [rollout for rollout in report.drawn if rollout.finish_reason == "length"]


class NoEos(Endings):
    """Not one completion of ten steps ends by itself."""

    code = "no_eos"

    def look(self, report: StepReport) -> Finding | None:
        taught = report.metrics.get("mask/eos")
        if taught is not None and self.facts.lesson in LESSONS_WITH_PROMPTS:
            return self._of_rows(report, taught)
        share = self.share(report)
        if share is None or share < 1.0:
            return None
        return Finding(
            f"no completion of the last {WINDOW} steps ended by itself: the model never says EOS, or the sampler does "
            "not know its end token",
            "compare the end token of the chat template with generation_config.json; or raise "
            "rollout.max_completion_tokens",
            metric="completion/truncated",
            value=share,
            limit=1.0,
            samples=sample_names(report.step, self.cut_off(report)),
        )

    def _of_rows(self, report: StepReport, taught: float) -> Finding | None:
        """Supervised rows whose end is not among what is trained on."""
        shares = self.window("taught", taught, WINDOW)
        if len(shares) < FEW_STEPS or mean(shares) > TAUGHT_LIMIT:
            return None
        endless = [row for row, facts in zip(report.row_ids, report.row_facts, strict=False) if not facts.ends]
        return Finding(
            f"{1 - mean(shares):.0%} of the rows of the last {len(shares)} steps are trained on without their end "
            "token: the model learns to go on for ever",
            "look at where the mask ends (oxrl data inspect) and at the end token of the chat template; rows that are "
            "cut at data.max_length lose theirs (data/cut)",
            level="error" if mean(shares) == 0 else "warning",
            metric="mask/eos",
            value=mean(shares),
            limit=TAUGHT_LIMIT,
            samples=endless[:NAMED],
        )


class Truncation(Endings):
    """Too many completions are cut off: what they were about to say is judged as if it were not there."""

    code = "truncation"

    def look(self, report: StepReport) -> Finding | None:
        share, limit = self.share(report), self.config.tripwires.truncation_limit
        if share is None or share <= limit or share == 1.0:  # all of them: no_eos
            return None
        return Finding(
            f"{share:.0%} of the completions of the last {WINDOW} steps were cut off",
            "raise rollout.max_completion_tokens, or set rollout.drop_truncated or reward.overlong_buffer",
            metric="completion/truncated",
            value=share,
            limit=limit,
            samples=sample_names(report.step, self.cut_off(report)),
            badness=share,
        )


class DoubleBos(Wire):
    """A prompt begins with two BOS tokens: the template wrote one, and the tokenizer another."""

    code = "double_bos"

    def look(self, report: StepReport) -> Finding | None:
        bos = self.facts.bos_token_id
        if bos is None:
            return None
        wrong = [rollout for rollout in report.drawn if rollout.prompt.token_ids[:2] == [bos, bos]]
        names = sample_names(report.step, wrong)
        number, of, what = len(wrong), len(report.drawn), "prompts"
        if report.row_facts:
            rows = zip(report.row_ids, report.row_facts, strict=False)
            names = [row for row, facts in rows if facts.doubled == bos]
            number, of, what = sum(facts.doubled == bos for facts in report.row_facts), len(report.row_facts), "rows"
        if not number:
            return None
        return Finding(
            f"{number} of {of} {what} of step {report.step} begin with two BOS tokens",
            "take BOS out of the text of the prompts, or out of the chat template",
            metric="prompt/double_bos",
            value=number / of,
            limit=0.0,
            samples=names[:NAMED],
        )


class ZeroVariance(Wire):
    """Over ten steps nearly all groups have rewards that are all the same: they teach nothing."""

    code = "zero_variance"

    def look(self, report: StepReport) -> Finding | None:
        is_compared = self.facts.lesson in ("advantages", "best_and_worst") and self.config.algorithm.advantage not in (
            "returns",
            "gae",
        )
        share = report.metrics.get("groups/zero_variance")
        if share is None or not is_compared:
            return None
        shares = self.window("shares", share, WINDOW)
        if len(shares) < WINDOW or mean(shares) < ZERO_VARIANCE_LIMIT:
            return None
        reward = report.metrics.get("reward/mean", 0.0)
        return Finding(
            f"in {mean(shares):.0%} of the groups of the last {WINDOW} steps all rewards are the same (mean "
            f"{reward:.3g}): the prompts are too easy, too hard, or the reward tells nothing apart",
            "take prompts of another difficulty, raise rollout.group_size, or set rollout.dynamic_sampling",
            metric="groups/zero_variance",
            value=mean(shares),
            limit=ZERO_VARIANCE_LIMIT,
            samples=sample_names(report.step, report.drawn),
        )


class VerifierErrors(Wire):
    """Completions that could not be judged: the reward failed or took too long."""

    code = "verifier_errors"

    def look(self, report: StepReport) -> Finding | None:
        failed = [one for one in report.drawn if one.score is not None and one.score.status not in HAS_VERDICT]
        limit = self.config.tripwires.verifier_error_limit
        share = len(failed) / max(len(report.drawn), 1)
        if share <= limit:
            return None
        first = failed[0].score
        assert first is not None
        return Finding(
            f"{len(failed)} of {len(report.drawn)} completions of step {report.step} could not be judged, the first: "
            f"{first.status}: {first.detail}",
            "try the reward on that sample (oxrl rollouts RUN --show SAMPLE); raise reward.timeout_seconds",
            level="error" if share > 0.5 else "warning",
            metric="reward/errors",
            value=share,
            limit=limit,
            samples=sample_names(report.step, failed),
            badness=share,
        )
