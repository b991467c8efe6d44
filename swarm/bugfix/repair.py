"""The Bugfixer: start, and where it fails diagnose, plan, gate, apply, probe, verify, keep or roll back.

Everything that was decided is a row (attempts.py) before it is done, so that a repair that is killed goes on where it
was: no attempt is made twice. One change an attempt; a change is kept where the failure went away or came later, else
taken back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from oxrl_core.diagnose.views import Change
from oxrl_core.errors import ConfigError, OxrlError
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import Status
from swarm.bugfix.attempts import Attempt, Source, Verdict, read_attempts, write_attempt
from swarm.bugfix.child import start_child, wait_for
from swarm.bugfix.gate import as_change, as_override, check_invariants, check_patch, settings_of
from swarm.bugfix.outcome import Outcome, outcome_of, refused, unverified
from swarm.bugfix.plan import Candidate, candidates
from swarm.bugfix.policy import read_policy

PROBE_STEPS = 2
LONG_STEPS = 20  # a run of fewer steps is its own probe


class NeedsInput(OxrlError):
    """The rules are exhausted: somebody has to decide."""


@dataclass(frozen=True)
class Decision:
    """What the caller said when the rules were exhausted."""

    overrides: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Work:
    """What is to be made to run."""

    parent: RunDir
    stage: str
    config_yaml: str
    overrides: tuple[str, ...]  # of whoever asked for it
    max_attempts: int
    judge: Callable[[RunDir], list[str]]  # criteria that the finished run does not meet
    beat: Callable[[str, Status | None], None]
    kept: tuple[Change, ...] = ()  # fixes of earlier repairs
    decisions: tuple[Decision, ...] = ()
    deadline: float | None = None


@dataclass(frozen=True)
class Repaired:
    """A run that works, and what was changed for it."""

    run: RunDir
    overlay: list[Change]
    attempts: int


def repair(work: Work) -> Repaired:
    """The run that works; raises NeedsInput where nothing is left that may be tried without asking."""
    while True:
        rows = read_attempts(work.parent, work.stage)
        attempt = rows[-1] if rows and not rows[-1].has_ended else _next(work, rows)
        if attempt is None:
            last = rows[-1]
            assert last.run_id
            return Repaired(RunDir(work.parent.home / "runs" / last.run_id), last.active, len(rows))
        if not rows or attempt.number != rows[-1].number:
            write_attempt(work.parent, attempt)
        outcome = _try(work, attempt)
        attempt.outcome = outcome.as_dict()
        earlier = rows if not rows or rows[-1].number != attempt.number else rows[:-1]
        attempt.verdict = _verdict(outcome, _last_outcome(earlier), attempt)
        write_attempt(work.parent, attempt)
        if attempt.changes:
            paths = ", ".join(as_override(change) for change in attempt.changes)
            work.parent.append_event("info", f"fix_{attempt.verdict}", f"{work.stage}: {paths} for {attempt.cause}")


def _next(work: Work, rows: Sequence[Attempt]) -> Attempt | None:
    """The next attempt; None where the last one was whole."""
    number = len(read_attempts(work.parent))
    if not rows:
        active = _applicable(work)
        source: Source = "archive" if active else "first"
        return Attempt(number=number, stage=work.stage, source=source, active=active, changes=active)
    last = _last_outcome(rows)
    assert last is not None
    if last.ok:
        return None
    active = active_after(rows)
    used = rows[-1].steering
    if used < len(work.decisions):
        return _decided(work, rows, number, used, active)
    why = _why_stop(work, rows)
    found: list[Candidate] = []
    if not why:
        found = propose(work, rows)
        chosen = next((candidate for candidate in found if not candidate.refused), None)
        if chosen is not None:
            return Attempt(
                number=number, stage=work.stage, source="rules", cause=chosen.cause, evidence=chosen.evidence,
                changes=chosen.changes, active=_with(active, chosen.changes), steering=used,
            )  # fmt: skip
        refusals = [f"{c.cause}: {c.refused}" for c in found if c.refused]
        why = "; ".join(refusals[:3]) if refusals else "no rule knows a remedy"
    raise NeedsInput(f"{last.what}. {why}", f"{work.stage}, {last.where or last.phase}", "steer_onboarding")


def propose(work: Work, rows: Sequence[Attempt]) -> list[Candidate]:
    """What the tables propose for the last failure."""
    last = _last_outcome(rows)
    assert last is not None
    settings, _ = settings_of(work.config_yaml, _all_overrides(work, active_after(rows)))
    tried = [(change.path, change.new) for row in rows for change in row.changes]
    again = [row.cause for row in rows if row.source == "rules" and not row.changes]
    run = RunDir(work.parent.home / "runs" / last.run_id) if last.run_id else None
    return candidates(last, run, settings, read_policy(work.parent.home), tried, again)


def _decided(work: Work, rows: Sequence[Attempt], number: int, used: int, active: list[Change]) -> Attempt:
    """The attempt that the caller asked for. It was checked when it was said; the gate is asked again."""
    decision = work.decisions[used]
    settings, _ = settings_of(work.config_yaml, _all_overrides(work, active))
    wished = [as_change(text, settings) for text in decision.overrides]
    changes = check_patch(wished, settings, read_policy(work.parent.home))
    return Attempt(
        number=number, stage=work.stage, source="caller", cause="asked for", reason=decision.reason, changes=changes,
        active=_with(active, changes), steering=used + 1,
    )  # fmt: skip


def _why_stop(work: Work, rows: Sequence[Attempt]) -> str:
    """Why no further attempt is made; empty: one is."""
    since = [row for row in rows if row.steering == rows[-1].steering]
    own = [row for row in since if row.source == "rules"]
    if len(own) >= work.max_attempts:
        return f"{len(own)} attempts were made"
    places = [Outcome.from_dict(row.outcome).place for row in since if row.outcome]
    backwards = sum(later < earlier for earlier, later in itertools.pairwise(places))
    return "the failure came earlier twice" if backwards >= 2 else ""


def _try(work: Work, attempt: Attempt) -> Outcome:
    overrides = _all_overrides(work, attempt.active)
    base, _ = settings_of(work.config_yaml, work.overrides)
    after, failure = settings_of(work.config_yaml, overrides)
    try:
        check_invariants(base, after, attempt.active)
    except ConfigError as error:
        return refused(error)
    work.beat("starting", None)
    if attempt.changes and failure is None and not attempt.probe:
        steps = int(after["train"].get("steps") or LONG_STEPS + 1)
        if steps <= LONG_STEPS:
            attempt.probe = f"none: the run itself has {steps} steps"
        else:
            outcome = _probe(work, attempt, overrides)
            if not outcome.ok:
                return outcome
        write_attempt(work.parent, attempt)
    started = start_child(work.parent, f"{work.stage}/{attempt.number}", work.config_yaml, overrides)
    if isinstance(started, Outcome):
        return started
    if attempt.run_id != started.run_id:
        attempt.run_id = started.run_id
        write_attempt(work.parent, attempt)
    outcome = outcome_of(started, wait_for(started, lambda status: work.beat("running", status), work.deadline))
    if not outcome.ok:
        return outcome
    work.beat("verifying", None)
    failed = work.judge(started)
    return unverified(started, failed) if failed else outcome


def _probe(work: Work, attempt: Attempt, overrides: Sequence[str]) -> Outcome:
    """Two steps with the patch, before the whole run. It proves nothing but that the failure is gone so far."""
    short = [*overrides, f"train.steps={PROBE_STEPS}", "data.eval=[]", "train.eval_every=0", "train.keep_best=0"]
    started = start_child(work.parent, f"{work.stage}/{attempt.number}-probe", work.config_yaml, short)
    if isinstance(started, Outcome):
        return started
    attempt.probe = started.run_id
    return outcome_of(started, wait_for(started, lambda status: work.beat("probing", status), work.deadline))


def _verdict(outcome: Outcome, before: Outcome | None, attempt: Attempt) -> Verdict:
    """Kept where the failure before is gone; taken back where it is the same one, or an earlier one."""
    if outcome.ok or before is None or not attempt.changes:
        return "kept"
    moved_on = outcome.place > before.place
    is_other = outcome.place == before.place and outcome.fingerprint != before.fingerprint
    return "kept" if moved_on or is_other else "rolled_back"


def active_after(rows: Sequence[Attempt]) -> list[Change]:
    """The changes that are in force after these attempts."""
    active: list[Change] = []
    for row in rows:
        if row.verdict == "kept":
            active = row.active
    return active


def _last_outcome(rows: Sequence[Attempt]) -> Outcome | None:
    """The outcome that the configuration in force had: that of an attempt that was taken back says nothing of it."""
    kept = [row for row in rows if row.outcome and row.verdict == "kept"]
    return Outcome.from_dict(kept[-1].outcome) if kept and kept[-1].outcome else None


def _applicable(work: Work) -> list[Change]:
    """Fixes of earlier repairs whose fault is there again."""
    settings, _ = settings_of(work.config_yaml, work.overrides)
    policy = read_policy(work.parent.home)
    found: list[Change] = []
    for change in work.kept:
        try:
            checked = check_patch([change], settings, policy)
        except ConfigError:
            continue  # its value is there already, or it may not be made any more
        if checked[0].old == change.old:
            found += checked
    return found


def _with(active: Sequence[Change], changes: Sequence[Change]) -> list[Change]:
    paths = {change.path for change in changes}
    return [*(change for change in active if change.path not in paths), *changes]


def _all_overrides(work: Work, active: Sequence[Change]) -> list[str]:
    return [*work.overrides, *(as_override(change) for change in active)]
