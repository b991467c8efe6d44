"""The whole diagnosis: everything that was seen, merged by cause, ranked, with the patches that are allowed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oxrl_core.diagnose.detectors import Seen, all_detectors, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.logs import Hit, Verdict, log_paths, search_logs
from oxrl_core.diagnose.plans import Patch, PlanFacts, first_attempt, patches
from oxrl_core.diagnose.tables import all_causes, all_signatures, plan_for
from oxrl_core.diagnose.views import Change, Diagnosis, Evidence, Finding
from oxrl_core.errors import OxrlError
from oxrl_core.redact import Redactor
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

SEVERITY = {"error": 2, "warning": 1, "info": 0}
MAX_EVIDENCE = 6
FAILED = ("failed", "lost", "orphaned", "stalled")
# A log that names the failure is surer than the name of the error that it ended with, and less than a tripwire.
SIGNATURE_CONFIDENCE = 0.9
AMBIGUOUS_CONFIDENCE = 0.5
SURE_ROOT = 0.8  # from which on a warning is promoted to the error that it explains
PHASES = {"starting": "start", "drawing": "rollout", "training": "train", "saving": "save", "exporting": "save"}


def diagnose(run: RunDir, *, keep: bool = True) -> Diagnosis:
    """What is wrong with a run, from its directory alone. It is kept there as diagnosis.json, unless `keep` says no."""
    facts = RunFacts(run)
    seen, looked_at = _look(facts)
    verdict = _logs(facts)
    seen += _from_logs(verdict, facts)
    findings = _ranked(_merged(seen), facts)
    status = facts.status
    missing = list(dict.fromkeys(facts.missing))
    if facts.samples.problem:
        missing.append(facts.samples.problem)
    if facts.is_rl and not facts.samples.steps():
        missing.append("rollouts: none recorded")
    if not facts.run.log_names():
        missing.append("logs: none")
    diagnosis = Diagnosis(
        run_id=run.run_id,
        kind=facts.kind,
        state=status.state if status else "",
        step=facts.step,
        headline=_headline(findings, facts),
        findings=findings,
        ambiguous=verdict.is_ambiguous,
        looked_at=looked_at,
        missing=missing,
        command=_command(findings, facts, seen),
    )
    diagnosis = _made_safe(diagnosis)
    if not keep:
        return diagnosis
    path = run.path / "diagnosis.json"
    try:
        write_json(path, diagnosis.model_dump(mode="json"))
    except OSError as error:  # a full or read-only disk must not keep the answer back
        diagnosis.missing.append(f"diagnosis.json could not be written: {error.strerror}")
        return diagnosis
    return diagnosis.model_copy(update={"path": str(path)})


def _made_safe(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis without secrets, terminal codes and invisible characters: it quotes logs, rows and completions."""
    return Diagnosis.model_validate(Redactor.of_this_machine(os.environ).tree(diagnosis.model_dump()))


def _look(facts: RunFacts) -> tuple[list[Seen], list[str]]:
    seen: list[Seen] = []
    looked_at: list[str] = []
    for name, (words, function) in all_detectors().items():
        try:
            seen += list(function(facts))
            looked_at.append(words)
        except (ArithmeticError, LookupError, TypeError, ValueError, OSError, OxrlError) as error:
            # A record of another version, or a torn one: the other detectors can still see.
            facts.missing.append(
                f"{words}: {name.rpartition('.')[2]} could not read it ({type(error).__name__}: {error})"
            )
    return seen, looked_at


def _logs(facts: RunFacts) -> Verdict:
    """What the logs say; only of a run that failed, for a healthy one survived whatever its log names."""
    if facts.state not in FAILED:
        return Verdict(None)
    return search_logs(log_paths(facts.run.logs))


def _from_logs(verdict: Verdict, facts: RunFacts) -> list[Seen]:
    found: list[Seen] = []
    hits = ([verdict.root] if verdict.root else []) + verdict.rivals
    for hit in hits:
        confidence = AMBIGUOUS_CONFIDENCE if verdict.is_ambiguous else SIGNATURE_CONFIDENCE
        told = [seen_by(f"{hit.log}.log", hit.line[:300])]
        found.append(Seen(hit.id, confidence, hit.signature.cause, "error", told, hit.signature.remedy, hit.numbers))
    if not hits and verdict.wrappers:
        wrapper: Hit = verdict.wrappers[0]
        told = [seen_by(f"{wrapper.log}.log", wrapper.line[:300])]
        summary = f"{wrapper.signature.cause}: something else failed first and left no known text"
        found.append(Seen("unexplained_failure", 0.35, summary, "error", told, wrapper.signature.remedy))
    return found


def _merged(seen: Sequence[Seen]) -> list[Seen]:
    """One of each cause: the surest words, the evidence of all, and surer for being seen twice."""
    by_cause: dict[str, Seen] = {}
    for one in sorted(seen, key=lambda one: -one.confidence):
        known = by_cause.get(one.cause)
        if known is None:
            by_cause[one.cause] = one
            continue
        known.evidence = [*known.evidence, *(item for item in one.evidence if item not in known.evidence)]
        known.confidence = 1 - (1 - known.confidence) * (1 - 0.5 * one.confidence)
        known.severity = max(known.severity, one.severity, key=SEVERITY.__getitem__)
        known.before = known.before if known.before is not None else one.before
    return list(by_cause.values())


def _ranked(seen: Sequence[Seen], facts: RunFacts) -> list[Finding]:
    """Roots first. A finding that a surer or graver one explains is named there and not listed."""
    explains = {one.cause: _explained_by(one.cause) for one in seen}
    _promote(seen, explains)
    order = sorted(seen, key=lambda one: (-SEVERITY[one.severity], -one.confidence, one.cause))
    consequences: dict[str, list[str]] = {}
    for one in order:
        for other in order:
            if other is one or one.cause not in explains[other.cause]:
                continue
            mutual = other.cause in explains[one.cause]
            # Of two that explain each other the surer one stands; a vague one explains nothing grave.
            if (mutual and order.index(other) > order.index(one)) or SEVERITY[other.severity] < SEVERITY[one.severity]:
                continue
            if other.confidence + 0.25 < one.confidence:
                continue
            consequences.setdefault(other.cause, []).append(one.cause)
    hidden = {name for names in consequences.values() for name in names}
    return [_finding(one, facts, consequences.get(one.cause, [])) for one in order if one.cause not in hidden]


def _promote(seen: Sequence[Seen], explains: dict[str, set[str]]) -> None:
    """A sure root is as grave as what it explains: a tenth of the verdicts that fail, where the reward falls."""
    for root in seen:
        for other in seen:
            is_consequence = other is not root and other.cause in explains[root.cause]
            if is_consequence and root.cause not in explains[other.cause] and root.confidence >= SURE_ROOT:
                root.severity = max(root.severity, other.severity, key=SEVERITY.__getitem__)


def _explained_by(cause: str) -> set[str]:
    """Causes that are consequences of this one; a text in a log explains an error without a name."""
    known = all_causes().get(cause)
    return set(known.explains) if known else {"unexplained_failure", "lost", "crashed", "wrong_request"}


def _finding(one: Seen, facts: RunFacts, explains: list[str]) -> Finding:
    cause = all_causes().get(one.cause)
    return Finding(
        cause=one.cause,
        severity=one.severity,
        confidence=round(min(one.confidence, 0.99), 2),
        summary=one.summary,
        evidence=[_short(item) for item in one.evidence[:MAX_EVIDENCE]],
        overlay=[] if one.severity == "info" else overlay_of(one, facts),
        next=one.next or (cause.next if cause else ""),
        explains=explains,
    )


def overlay_of(one: Seen, facts: RunFacts) -> list[Change]:
    """The first patches of the cause that the schema and its rules allow; none where nothing of ours helps."""
    known = PlanFacts(phase=_phase(facts), numbers=one.numbers)  # pyright: ignore[reportArgumentType]
    signature = all_signatures().get(one.cause)
    cause = all_causes().get(one.cause)
    if signature is not None and cause is None:
        plan = plan_for(signature, facts.settings, known)
    else:
        plan = patches(cause.plan if cause else (), facts.settings, known)
    while plan:
        attempt = first_attempt(plan)
        if _is_valid(attempt, facts):
            return [Change(path=p.path, old=p.old, new=p.new, why=p.why, risk=p.risk) for p in attempt]
        plan = plan[len(attempt) :]
    return []


def _is_valid(attempt: Sequence[Patch], facts: RunFacts) -> bool:
    """Whether the configuration can be loaded with these patches."""
    from oxrl_core.config.load import load_config

    try:
        load_config(facts.run.path / "config.yaml", [override(patch.path, patch.new) for patch in attempt])
    except (OxrlError, OSError):
        return False
    return True


def override(path: str, value: Any) -> str:
    """A change as the command line takes it."""
    if value is None:
        return f"{path}=null"
    if isinstance(value, bool):
        return f"{path}={str(value).lower()}"
    return f"{path}={value:g}" if isinstance(value, float) else f"{path}={value}"


def _command(findings: Sequence[Finding], facts: RunFacts, seen: Sequence[Seen]) -> str:
    """Starts again with the overlay of the first finding that has one: from a checkpoint before it began, or anew."""
    first = next((finding for finding in findings if finding.overlay), None)
    if first is None:
        return ""
    changes = " ".join(override(change.path, change.new) for change in first.overlay)
    began = min((one.before for one in seen if one.cause == first.cause and one.before is not None), default=None)
    steps = [step for step in facts.checkpoint_steps if began is None or step < began]
    if steps and first.severity != "info":
        return f"oxrl fork {facts.run.run_id} --step {steps[-1]} {changes}"
    return f"oxrl train {_home_relative(facts.run.path / 'config.yaml')} {changes}"


def _home_relative(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)


def _headline(findings: Sequence[Finding], facts: RunFacts) -> str:
    grave = [finding for finding in findings if finding.severity != "info"]
    if not grave:
        quiet = findings[0].summary if findings else f"nothing found in {facts.step} steps"
        return quiet if findings else f"nothing found: {facts.step} steps look healthy" if facts.step else quiet
    first = grave[0]
    cause = all_causes().get(first.cause)
    title = cause.title if cause else first.summary
    return title if first.confidence >= 0.6 else f"perhaps: {title}"


def _phase(facts: RunFacts) -> str:
    phase = (facts.status.phase if facts.status else "") or ""
    if PHASES.get(phase) == "train" and "CUDA" in " ".join(facts.status.log_tail if facts.status else []):
        tail = " ".join(facts.status.log_tail) if facts.status else ""
        return "rollout" if "vllm" in tail.lower() and "backward" not in tail else "train"
    return PHASES.get(phase, "")


def _short(item: Evidence) -> Evidence:
    value = item.value
    return item.model_copy(update={"value": float(f"{value:.6g}") if isinstance(value, float) else value})
