"""Bug reports: drafted from redacted facts, looked at, then submitted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.catalogue import LAUNCH, WRITE, operation, tool
from mcp_server.tools.arguments import RunId
from swarm.bug_report.views import Draft, Submitted

DraftId = Annotated[str, Field(description="From draft_bug_report", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")]


@tool(
    title="Draft a bug report",
    hints=WRITE,
    ask_less="call it without notes",
    toolset="report",
    needs="swarm.bug_report",
    link="oxrl://bugs/{draft_id}",
)
def draft_bug_report(
    run_id: RunId,
    notes: Annotated[str, Field(description="In your own words", max_length=2000)] = "",
) -> Draft:
    """Write a bug report about a run from redacted facts. Nothing leaves this machine: show it to a person, then
    submit_bug_report."""
    draft: Draft = operation("swarm.bug_report", "draft_bug_report")(run_id, notes=notes)
    return draft.model_copy(update={"next": _next_of_draft(draft)})


def _next_of_draft(draft: Draft) -> str:
    """The tool that goes on with the draft; a bug that is known, or is none of oxRL's, needs no submission."""
    if draft.kind == "user":
        return "diagnose_run"
    if draft.duplicate_of:
        return ""
    return "submit_bug_report" if draft.plan_hash else _to_a_person(draft.draft_id)


def _to_a_person(draft_id: str) -> str:
    return f"show oxrl://bugs/{draft_id} to a person: this server sends no report, its link opens one"


@tool(title="Submit a bug report", hints=LAUNCH, ask_less="none", toolset="report", needs="swarm.bug_report")
def submit_bug_report(
    draft_id: DraftId,
    plan_hash: Annotated[str, Field(description="Of the draft", max_length=64)],
) -> Submitted:
    """Publish a draft as an issue of oxRL's repository, with a person's word. A known bug gives its address only."""
    done: Submitted = operation("swarm.bug_report", "submit_bug_report")(draft_id, plan_hash)
    return done.model_copy(update={"next": _to_a_person(draft_id) if done.state == "not_sent" else ""})
