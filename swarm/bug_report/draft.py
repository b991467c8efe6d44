"""A draft: the report as it would be published, kept as a file, with the hash that confirms it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from pydantic import ValidationError

from oxrl_core.errors import NotFoundError
from oxrl_core.runs import launch
from oxrl_core.runs.records import read_json, write_json, write_text
from oxrl_core.runs.rundir import oxrl_home
from swarm.bug_report.body import body_of, cleaner_of_this_machine, own_version, prefilled_link, title_of
from swarm.bug_report.failure import failure_of, fingerprint_of
from swarm.bug_report.ledger import Ledger
from swarm.bug_report.settings import ReportSettings, read_settings
from swarm.bug_report.verdict import judge
from swarm.bug_report.views import Draft

FAILED_STATES = ("failed", "lost")
_DRAFT_ID = re.compile(r"draft-[0-9a-f]{16}")


def draft_bug_report(run_id: str, notes: str = "", *, home: Path | None = None) -> Draft:
    """The report about a failed run. Nothing is sent: its plan hash is what `submit_bug_report` asks for."""
    home = home or oxrl_home()
    run = launch.find_run(home, run_id)
    state = run.status().state
    if state not in FAILED_STATES:
        raise NotFoundError(
            f"{run.run_id} has no failure to report: it is {state}", str(run.path), f"oxrl diagnose {run.run_id}"
        )
    settings = read_settings(home)
    failure = failure_of(run)
    verdict = judge(run, failure)
    fingerprint = fingerprint_of(failure, own_version())
    body = body_of(run, failure, fingerprint, notes, cleaner_of_this_machine())
    title = title_of(failure)
    is_ours = verdict.kind == "framework"
    path = run.path / "bug_report.md"
    draft = Draft(
        draft_id="draft-" + hashlib.sha256(f"{run.run_id}\0{title}\0{body}".encode()).hexdigest()[:16],
        run_id=run.run_id,
        kind=verdict.kind,
        reason=verdict.reason,
        title=title,
        body=body,
        fingerprint=fingerprint,
        duplicate_of=Ledger(home).url_of(fingerprint, settings.repo) if settings.repo else "",
        repo=settings.repo,
        path=str(path),
        link=prefilled_link(settings.web, settings.repo, title, body) if is_ours and settings.repo else "",
    )
    if is_ours and settings.enabled:
        draft = draft.model_copy(update={"plan_hash": plan_hash(draft, settings)})
    draft = draft.model_copy(update={"next": verdict.next or _next(draft)})
    folder = Ledger(home).folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(path, f"# {title}\n\n{body}")
    write_json(folder / f"{draft.draft_id}.json", draft.model_dump(mode="json"))
    return draft


def _next(draft: Draft) -> str:
    if draft.duplicate_of:
        return f"it is known: {draft.duplicate_of}"
    if draft.plan_hash:
        return "read the body, then submit_bug_report(draft_id, plan_hash)"
    if draft.link:
        return "read the body, then open the link; sending is off until the operator enables it in report.yaml"
    return f"read {draft.path} and open an issue with it; sending is off until the operator writes report.yaml"


def plan_hash(draft: Draft, settings: ReportSettings) -> str:
    """Confirms one text for one place: it changes with either."""
    plan = [settings.api, settings.repo, draft.title, draft.body, draft.fingerprint]
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


def read_draft(draft_id: str, home: Path) -> Draft:
    """A draft that was made here."""
    record = read_json(Ledger(home).folder / f"{draft_id}.json") if _DRAFT_ID.fullmatch(draft_id) else None
    try:
        draft = Draft.model_validate(record)
    except ValidationError:
        draft = None
    if draft is None or draft.draft_id != draft_id:
        raise NotFoundError(f"there is no draft {draft_id[:80]!r}", "draft_id", "oxrl bug-report RUN makes one")
    return draft
