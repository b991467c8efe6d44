"""What drafting and submitting a bug report say."""

from __future__ import annotations

from typing import Literal

from oxrl_core.runs.views import View


class Draft(View):
    """A report about a failed run, exactly as it would be published."""

    draft_id: str
    run_id: str
    kind: Literal["framework", "user"]
    reason: str
    """Why it is a defect of oxRL, or why it is not."""
    title: str
    body: str
    fingerprint: str
    duplicate_of: str = ""
    """The issue in which this machine has reported the same failure already."""
    repo: str = ""
    """Where the operator lets reports go; empty where nowhere."""
    plan_hash: str = ""
    """Confirms exactly this text for exactly this place; empty where it may not be sent."""
    path: str = ""
    """The report as a file."""
    link: str = ""
    """Opens a prefilled issue in a browser."""
    next: str = ""


class Submitted(View):
    """What became of a draft."""

    draft_id: str
    state: Literal["sent", "duplicate", "not_sent"]
    url: str = ""
    duplicate_of: str = ""
    reason: str = ""
    retry_after_seconds: float = 0.0
    path: str = ""
    link: str = ""
    next: str = ""
