"""All tripwires of a run: they look at every report, and what rings becomes an event."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import (
    LogprobGapError,
    NumericsError,
    OxrlError,
    RewardError,
    StalePolicyError,
    TripwireError,
    WeightSyncError,
)
from oxrl_core.train.tripwires.base import NAMED, Bell, Facts, Finding, Wire
from oxrl_core.train.tripwires.course import (
    EntropyHigh,
    EntropyLow,
    GradientSpike,
    KlHigh,
    LrFloor,
    RewardFlat,
    SlowStep,
)
from oxrl_core.train.tripwires.samples import (
    DoubleBos,
    MaskCoverage,
    NoEos,
    NotFinite,
    Truncation,
    VerifierErrors,
    ZeroVariance,
)
from oxrl_core.train.tripwires.weights import GradientDead, LoraUnbound, LostUpdates

if TYPE_CHECKING:
    from oxrl_core.runs.rundir import RunDir
    from oxrl_core.train.report import StepReport

WIRES: tuple[type[Wire], ...] = (
    NotFinite,
    LoraUnbound,
    MaskCoverage,
    NoEos,
    DoubleBos,
    Truncation,
    ZeroVariance,
    VerifierErrors,
    LostUpdates,
    KlHigh,
    EntropyLow,
    EntropyHigh,
    GradientSpike,
    GradientDead,
    LrFloor,
    SlowStep,
    RewardFlat,
)
# Failures that end a run by themselves -> their code.
FAILURES: dict[type[OxrlError], str] = {
    WeightSyncError: "weight_sync",
    StalePolicyError: "weight_sync",
    LogprobGapError: "logprob_gap",
    NumericsError: "not_finite",
    RewardError: "verifier_errors",
}
CODES = tuple(sorted({wire.code for wire in WIRES} | set(FAILURES.values())))
SAMPLE = re.compile(r"^(?P<prompt>\S.*)/(?P<sample>\d+), token \d+$")
PARAMETER = re.compile(r"parameter (?P<name>[^\s,]+)")


class Tripwires:
    """The tripwires of one run, on the process that writes for it."""

    def __init__(self, run: RunDir, facts: Facts) -> None:
        self.run = run
        self.facts = facts
        self.wires = [wire(facts) for wire in WIRES]
        self.bells = {wire.code: Bell() for wire in self.wires}

    def look(self, report: StepReport) -> OxrlError | None:
        """The error that ends the run, where a wire of `tripwires.stop_on` rang; what rings becomes an event."""
        ending: OxrlError | None = None
        if report.step == 0 or not report.metrics:
            return None
        # A NaN compares with nothing: one wire looks for it, the others see the metrics that are numbers.
        finite = {name: value for name, value in report.metrics.items() if math.isfinite(value)}
        numbers = replace(report, metrics=finite)
        for wire in self.wires:
            finding = wire.look(report if isinstance(wire, NotFinite) else numbers)
            if not self.bells[wire.code].hears(finding):
                continue
            assert finding is not None
            self.say(wire.code, report.step, finding)
            if wire.code in self.facts.config.tripwires.stop_on and ending is None:
                where = next(iter([*finding.samples, *finding.parameters]), f"step {report.step}")
                ending = TripwireError(f"{wire.code}: {finding.message}", where, finding.next_step)
        return ending

    def say(self, code: str, step: int, finding: Finding) -> None:
        """The finding as an event of the run."""
        fields: dict[str, Any] = {"step": step, "next": finding.next_step}
        numbers = {"metric": finding.metric or None, "value": finding.value, "limit": finding.limit}
        fields |= {name: value for name, value in numbers.items() if value is not None}
        if finding.samples:
            fields["samples"] = list(finding.samples)[:NAMED]
        if finding.parameters:
            fields["parameters"] = list(finding.parameters)[:NAMED]
        self.run.append_event(finding.level, code, finding.message, **fields)
        print(f"{finding.level}: {code}: {finding.message}", flush=True)

    def alarm(self, error: OxrlError, step: int) -> None:
        """Says the failure that ends the run under its code, where it is one that a tripwire found."""
        code = FAILURES.get(type(error))
        if code is None:
            return
        sample, parameter = SAMPLE.match(error.where), PARAMETER.search(error.where)
        finding = Finding(
            error.what,
            error.next_step,
            level="error",
            samples=[f"{step}/{sample['prompt']}/{sample['sample']}"] if sample else [],
            parameters=[parameter["name"]] if parameter else [],
        )
        self.say(code, step, finding)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON."""
        return {wire.code: {"memory": wire.memory, "bell": self.bells[wire.code].state()} for wire in self.wires}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` left off; a wire that was not there yet begins."""
        for wire in self.wires:
            kept = state.get(wire.code)
            if kept:
                wire.memory = dict(kept["memory"])
                self.bells[wire.code] = Bell(kept["bell"])
