"""What a diagnosis says: the result objects that command line and agents read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from oxrl_core.runs.views import View

Severity = Literal["error", "warning", "info"]
Risk = Literal["S", "A", "N"]  # safe for the science; changes what is learned; never applied by a machine


class Evidence(View):
    """One thing that was seen."""

    what: str
    value: float | str | None = None
    step: int | None = None
    samples: list[str] = Field(default_factory=list[str])
    """Rollouts as step/prompt/sample, or names of parameters."""


class Change(View):
    """One value of the configuration to change, and why."""

    path: str
    old: Any = None
    new: Any = None
    why: str = ""
    risk: Risk = "A"
    """S: how it runs, not what it learns; A: changes the experiment."""


class Finding(View):
    """One cause, how sure it is, and what to do about it."""

    cause: str
    severity: Severity
    confidence: float
    summary: str
    evidence: list[Evidence] = Field(default_factory=list[Evidence])
    overlay: list[Change] = Field(default_factory=list[Change])
    """Changes that go together; checked against the schema and its rules."""
    next: str = ""
    explains: list[str] = Field(default_factory=list[str])
    """Findings that are consequences of this one and are not listed by themselves."""


class Diagnosis(View):
    """What is wrong with a run, the likeliest cause first."""

    run_id: str
    kind: str = ""
    state: str = ""
    step: int = 0
    headline: str
    findings: list[Finding] = Field(default_factory=list[Finding])
    ambiguous: bool = False
    """Several causes of one failure could not be told apart."""
    looked_at: list[str] = Field(default_factory=list[str])
    missing: list[str] = Field(default_factory=list[str])
    """What could not be looked at, and why."""
    command: str = ""
    """Starts again with the first finding's overlay."""
    path: str = ""
