"""Tripwires on the parameters: adapters that are not there, gradients that are zero, updates that vanish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.train.tripwires.base import NAMED, Finding, Wire

if TYPE_CHECKING:
    from oxrl_core.train.report import StepReport

ALL_LOST = 0.95  # of the updates


class LoraUnbound(Wire):
    """Adapters are asked for, and there are none, or the first update left them as they were."""

    code = "lora_unbound"

    def look(self, report: StepReport) -> Finding | None:
        if not self.facts.has_adapters or report.metrics.get("skipped") or "lr" not in report.metrics:
            return None
        bound = self.facts.adapted_modules
        if bound == 0:
            what, metric, value = "model.lora.enabled is on and no module carries an adapter", "lora/bound", 0.0
        elif report.metrics.get("update/lost") == 1.0:
            what, metric, value = f"the {bound} adapters did not change in step {report.step}", "update/lost", 1.0
        else:
            return None
        return Finding(
            what,
            "check model.lora.target_modules and train.lr",
            level="error",
            metric=metric,
            value=value,
            parameters=list(self.facts.dead_parameters())[:NAMED],
        )


class LostUpdates(Wire):
    """Updates are smaller than the last bit of the weights that they are added to."""

    code = "lost_updates"

    def look(self, report: StepReport) -> Finding | None:
        lost, limit = report.metrics.get("update/lost"), self.config.tripwires.lost_update_limit
        if lost is None or lost <= limit or report.metrics.get("lr") == 0:  # then nothing was to be added
            return None
        return Finding(
            f"{lost:.0%} of the updates of step {report.step} were rounded away: the stored weights are as before",
            f"raise train.lr ({report.metrics.get('lr', 0.0):.3g} at this step); a rate this small trains nothing",
            level="error" if lost > ALL_LOST else "warning",
            metric="update/lost",
            value=lost,
            limit=limit,
            badness=lost,
        )


class GradientDead(Wire):
    """Parameters whose gradient is exactly zero, update after update: they do not train."""

    code = "gradient_dead"

    def look(self, report: StepReport) -> Finding | None:
        dead = report.metrics.get("gradient/dead", 0.0)
        if dead < 1:
            return self._of_critic(report)
        names = list(self.facts.dead_parameters())
        whole = report.metrics.get("grad_norm") == 0.0
        return Finding(
            (
                f"the whole gradient has been exactly zero for 5 updates (step {report.step})"
                if whole
                else f"{dead:g} parameters have had a gradient of exactly zero for 5 updates (step {report.step})"
            ),
            (
                "all advantages are 0 or the loss is constant: look at groups/zero_variance and the rewards"
                if whole
                else "freeze them, or look for what cuts them off from the loss"
            ),
            metric="gradient/dead",
            value=dead,
            limit=0.0,
            parameters=names[:NAMED],
            badness=dead,
        )

    def _of_critic(self, report: StepReport) -> Finding | None:
        """The same of a critic with weights of its own."""
        dead = report.metrics.get("value/gradient/dead", 0.0)
        if dead < 1:
            return None
        return Finding(
            f"{dead:g} parameters of the critic have had a gradient of exactly zero for 5 updates (step {report.step})",
            "look for what cuts them off from the critic's loss, as states that are detached",
            metric="value/gradient/dead",
            value=dead,
            limit=0.0,
            badness=dead,
        )
