"""`oxrl bug-report`: the report about a failed run, shown first and sent only when it was confirmed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Format, Output
from oxrl_core.cli.root import RunArgument, app

if TYPE_CHECKING:
    from collections.abc import Iterable

    from swarm.bug_report.views import Draft, Submitted


@command(app, "bug-report")
def bug_report(
    out: Output,
    run_id: RunArgument = "latest",
    notes: Annotated[str, typer.Option(help="What you did and what you expected.")] = "",
    submit: Annotated[
        bool, typer.Option("--submit", help="Send it, where the operator's report.yaml allows it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm the shown text without a question.")] = False,
) -> None:
    """Draft a bug report about a failed run: secrets removed, shown before anything is sent."""
    from oxrl_core.errors import ConfigError
    from swarm.bug_report import draft_bug_report, submit_bug_report

    draft = draft_bug_report(run_id, notes)
    if not submit:
        out.show(draft, draw_draft)
        return
    if out.format is not Format.json:
        out.show(draft, draw_draft)
    if draft.kind == "framework" and not yes:
        if not sys.stdin.isatty() or out.format is not Format.human:
            raise ConfigError("sending needs a confirmation", "--submit", "read the report, then add --yes")
        typer.confirm(f"Publish this text in {draft.repo or 'no repository'}?", abort=True)
    sent = submit_bug_report(draft.draft_id, draft.plan_hash)
    out.show(sent, draw_submitted)
    if sent.state == "not_sent":
        raise typer.Exit(1)


def draw_draft(draft: Draft) -> Iterable[Any]:
    """The report as it would be published, and why it may or may not be sent."""
    from oxrl_core.cli.tables import next_line, pairs, styled

    yield styled(draft.title, "bold")
    yield styled(draft.body)
    rows = [("kind", f"{draft.kind}: {draft.reason}"), ("fingerprint", draft.fingerprint), ("file", draft.path)]
    rows += [("goes to", draft.repo)] if draft.repo else []
    rows += [("known as", draft.duplicate_of)] if draft.duplicate_of else []
    rows += [("plan hash", draft.plan_hash)] if draft.plan_hash else []
    yield pairs(rows)
    if draft.link:
        yield styled(draft.link)
    yield next_line(draft.next)


def draw_submitted(sent: Submitted) -> Iterable[Any]:
    """Where the issue is, or why there is none."""
    from oxrl_core.cli.tables import next_line, styled

    if sent.state == "sent":
        yield styled(f"sent: {sent.url}", "green")
    elif sent.state == "duplicate":
        yield styled(f"nothing sent, it is known: {sent.duplicate_of}", "green")
    else:
        yield styled(f"not sent: {sent.reason}", "yellow")
        if sent.link:
            yield styled(sent.link)
        yield next_line(sent.next)
