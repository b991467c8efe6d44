"""Sending a draft: only what was confirmed, only where the operator lets it go, and never twice."""

from __future__ import annotations

import hmac
import os
import time
from pathlib import Path

from oxrl_core.errors import ConfigError, MachineError
from oxrl_core.runs.rundir import oxrl_home
from swarm.bug_report.body import cleaner_of_this_machine, marker_of
from swarm.bug_report.draft import plan_hash as hash_of
from swarm.bug_report.draft import read_draft
from swarm.bug_report.ledger import Ledger
from swarm.bug_report.settings import ReportSettings, read_settings
from swarm.bug_report.tracker import Tracker, TrackerFailure
from swarm.bug_report.views import Draft, Submitted


def submit_bug_report(draft_id: str, plan_hash: str, *, home: Path | None = None) -> Submitted:
    """The issue that was opened for a draft, or that exists already, or why there is none."""
    home = home or oxrl_home()
    draft = read_draft(draft_id, home)
    settings = read_settings(home)
    if draft.kind != "framework":
        raise ConfigError(f"it is no defect of oxRL: {draft.reason}", draft.draft_id, draft.next)
    if not settings.enabled:
        return _not_sent(draft, "sending is off: the operator's report.yaml does not enable it")
    if not hmac.compare_digest(hash_of(draft, settings).encode(), plan_hash.encode()):
        raise ConfigError(
            "the plan hash is not that of this draft for this repository: nothing was sent",
            draft.draft_id,
            f"oxrl bug-report {draft.run_id} shows the report and its hash; read it and confirm that one",
        )
    if not cleaner_of_this_machine().is_clean(draft.body):
        raise ConfigError("the draft holds what is known to be a secret by now", draft.draft_id, "draft it again")
    token = os.environ.get("GITHUB_TOKEN", "").strip()
    if not token:
        raise MachineError(
            "there is no token", "GITHUB_TOKEN", "set a fine-grained token with the permission Issues: write"
        )
    ledger = Ledger(home)
    with ledger.held():
        known = ledger.url_of(draft.fingerprint, settings.repo)
        if known:
            return Submitted(draft_id=draft.draft_id, state="duplicate", url=known, duplicate_of=known, path=draft.path)
        pause = ledger.must_wait(draft.fingerprint, settings.repo, settings.max_per_day)
        if pause is not None:
            return _not_sent(draft, *pause)
        try:
            return _send(draft, settings, ledger, token)
        except TrackerFailure as error:
            return _not_sent(draft, error.what, error.wait_seconds)


def _send(draft: Draft, settings: ReportSettings, ledger: Ledger, token: str) -> Submitted:
    """Searches, and only then sends; every outcome is in the ledger before anybody hears of it."""
    facts = {"repo": settings.repo, "draft_id": draft.draft_id}
    tracker = Tracker(settings.api, settings.repo, token)
    try:
        try:
            tracker.connect()
            known = tracker.issue_with(marker_of(draft.fingerprint))
        except TrackerFailure as error:
            # An intent of an earlier process stays open: this failure says nothing about it.
            not_before = time.time() + error.wait_seconds if error.wait_seconds else 0.0
            ledger.write("unknown", draft.fingerprint, **facts, reason=error.what, not_before=not_before)
            raise
        if known:
            ledger.write("duplicate", draft.fingerprint, **facts, url=known)
            return Submitted(draft_id=draft.draft_id, state="duplicate", url=known, duplicate_of=known, path=draft.path)
        ledger.write("intent", draft.fingerprint, **facts)
        try:
            url = tracker.open_issue(draft.title, draft.body)
        except TrackerFailure as error:
            not_before = time.time() + error.wait_seconds if error.wait_seconds else 0.0
            event = "unknown" if error.may_exist else "failed"
            ledger.write(event, draft.fingerprint, **facts, reason=error.what, not_before=not_before)
            raise
        except MachineError as error:
            ledger.write("failed", draft.fingerprint, **facts, reason=error.what)
            raise
        ledger.write("sent", draft.fingerprint, **facts, url=url)
        return Submitted(draft_id=draft.draft_id, state="sent", url=url, path=draft.path)
    finally:
        tracker.close()


def _not_sent(draft: Draft, reason: str, seconds: float = 0.0) -> Submitted:
    way = f"open {draft.link[:60]}..." if draft.link else f"open an issue with {draft.path}"
    return Submitted(
        draft_id=draft.draft_id,
        state="not_sent",
        reason=reason,
        retry_after_seconds=round(seconds, 1),
        path=draft.path,
        link=draft.link,
        next=f"{way}, or try again in {seconds:.0f} s" if seconds else way,
    )
