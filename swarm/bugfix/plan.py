"""What could be done about an outcome, in the order in which to try it: diagnosis first, tables of remedies behind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from oxrl_core.diagnose.diagnosis import PHASES, diagnose
from oxrl_core.diagnose.logs import log_paths, search_logs
from oxrl_core.diagnose.plans import Patch, PatchRule, PlanFacts, first_attempt, patches, value_at
from oxrl_core.diagnose.tables import all_causes, all_signatures, plan_for
from oxrl_core.diagnose.views import Change
from oxrl_core.errors import ConfigError
from oxrl_core.runs.rundir import RunDir
from swarm.bugfix.gate import ALLOWED, PatchRefused, check_patch
from swarm.bugfix.outcome import Outcome
from swarm.bugfix.policy import Policy

# Failures of a moment: the same configuration once more is the remedy. A port was taken, a cache was torn.
ONCE_MORE = frozenset({"eaddrinuse", "store_timeout", "ckpt_torn", "ray_node_timeout", "nccl_timeout", "hub_corrupt"})
MIN_CONFIDENCE = 0.5
_WRONG_VALUE = re.compile(r"(?:^|\n\s*\d+\. )([\w.]+?)(?:\.\d+)? = .* should be ")
Phase = Literal["", "start", "train", "rollout", "save"]


@dataclass(frozen=True)
class Candidate:
    """One thing to try, and for which cause."""

    cause: str
    changes: list[Change]
    evidence: list[str] = field(default_factory=list[str])
    confidence: float = 1.0
    refused: str = ""  # why the gate does not let it through

    def as_dict(self) -> dict[str, Any]:
        return {
            "cause": self.cause, "confidence": round(self.confidence, 2), "evidence": self.evidence,
            "changes": [change.model_dump() for change in self.changes], "refused": self.refused,
        }  # fmt: skip


def candidates(
    outcome: Outcome,
    run: RunDir | None,
    settings: Mapping[str, Any],
    policy: Policy,
    tried: Sequence[tuple[str, Any]],
    tried_again: Sequence[str] = (),
) -> list[Candidate]:
    """Everything that the tables propose, the likeliest cause first; what the gate refuses is marked with its reason.

    `tried` are changes of earlier attempts, `tried_again` causes for which a second start was tried already.
    """
    if run is None:
        found = _for_refusal(outcome, settings, tried)
    else:
        found = _for_failure(outcome, run, settings, tried, tried_again)
    return [_gated(candidate, settings, policy, tried) for candidate in found]


def _gated(
    candidate: Candidate, settings: Mapping[str, Any], policy: Policy, tried: Sequence[tuple[str, Any]]
) -> Candidate:
    try:
        changes = check_patch(candidate.changes, settings, policy, tried)
    except PatchRefused as error:
        return Candidate(candidate.cause, candidate.changes, candidate.evidence, candidate.confidence, error.what)
    return Candidate(candidate.cause, changes, candidate.evidence, candidate.confidence)


def _for_refusal(outcome: Outcome, settings: Mapping[str, Any], tried: Sequence[tuple[str, Any]]) -> list[Candidate]:
    found: list[Candidate] = []
    for problem in outcome.problems:
        said = f"{problem.where}: {problem.what}"
        for name, rule in refusal_rules().items():
            if re.search(rule.where, said) and re.search(rule.what, problem.what):
                plan = patches(rule.plan, settings, PlanFacts(phase="start", tried=tried))
                found += _attempts(name, plan, [said[:300]])
        found += _usual_values(problem.what, settings)
    return found


def _usual_values(what: str, settings: Mapping[str, Any]) -> list[Candidate]:
    """The default of each key that says how a run is carried out, and has a value that it cannot have."""
    from oxrl_core.config.schema import Config

    usual: dict[str, Any] = {}
    for name, field_of in Config.model_fields.items():
        section = field_of.annotation
        fields = getattr(section, "model_fields", {})
        usual |= {f"{name}.{key}": one.get_default(call_default_factory=True) for key, one in fields.items()}
    found: list[Candidate] = []
    for path in dict.fromkeys(_WRONG_VALUE.findall(what)):
        bound = ALLOWED.get(path)
        if bound is not None and bound.risk == "S" and path in usual:
            old, new = value_at(settings, path), usual[path]
            change = Change(path=path, old=old, new=new, why="the usual value: its own is none", risk="S")
            found.append(Candidate("value_out_of_range", [change], [what[:300]]))
    return found


def _for_failure(
    outcome: Outcome,
    run: RunDir,
    settings: Mapping[str, Any],
    tried: Sequence[tuple[str, Any]],
    tried_again: Sequence[str],
) -> list[Candidate]:
    found: list[Candidate] = []
    diagnosis = diagnose(run)
    verdict = search_logs(log_paths(run.logs))
    numbers = {hit.id: hit.numbers for hit in [*([verdict.root] if verdict.root else []), *verdict.rivals]}
    phase = cast("Phase", PHASES.get(outcome.phase, ""))
    for finding in diagnosis.findings:
        if finding.severity == "info" or finding.confidence < MIN_CONFIDENCE:
            continue
        facts = PlanFacts(phase=phase, numbers=numbers.get(finding.cause, {}), tried=tried)
        cause = all_causes().get(finding.cause)
        if cause is None and finding.cause in all_signatures():
            plan = plan_for(finding.cause, settings, facts)
        else:
            plan = patches(cause.plan if cause else (), settings, facts)
        evidence = [f"{item.what}: {item.value}" for item in finding.evidence][:4]
        found += _attempts(finding.cause, plan, evidence, finding.confidence)
        if finding.cause in ONCE_MORE and finding.cause not in tried_again:
            found.append(Candidate(finding.cause, [], evidence, finding.confidence))
    return found


def _attempts(cause: str, plan: list[Patch], evidence: list[str], confidence: float = 1.0) -> list[Candidate]:
    """One candidate for each patch of the plan, with what goes with it."""
    found: list[Candidate] = []
    while plan:
        attempt = first_attempt(plan)
        plan = plan[len(attempt) :]
        changes = [Change(path=p.path, old=p.old, new=p.new, why=p.why, risk=p.risk) for p in attempt]
        found.append(Candidate(cause, changes, evidence, confidence))
    return found


@dataclass(frozen=True)
class RefusalRule:
    """A refusal that is known, and the patches for it."""

    where: str
    what: str
    plan: tuple[PatchRule, ...]


@cache
def refusal_rules() -> dict[str, RefusalRule]:
    """The rules of refusals.yaml by name."""
    import yaml

    path = Path(__file__).parent / "refusals.yaml"
    raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise ConfigError("it is no mapping of names", path.name, "write one rule per name")
    rules: dict[str, RefusalRule] = {}
    for name, entry in cast("dict[str, dict[str, Any]]", raw).items():
        plan = tuple(PatchRule(**rule) for rule in entry["plan"])
        rules[name] = RefusalRule(str(entry["where"]), str(entry["what"]), plan)
    return rules
