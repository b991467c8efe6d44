"""`oxrl replay` and `oxrl fork`: repeat a step of a run, and go on from one in another way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import DryRunOption, KeyOption, Overrides, RunArgument, app, show_launch, show_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxrl_core.runs.replay import ReplayView

StepOption = Annotated[int, typer.Option("--step", min=0, help="Step of the run, as its metrics count them.")]
DetachOption = Annotated[bool, typer.Option("--detach", "-d", help="Launch, print the run id, and leave.")]


@command(app, "replay")
def replay(
    out: Output,
    run_id: RunArgument,
    step: StepOption,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="a.b=c", help="What if this value had been another? Repeatable."),
    ] = None,
    detach: DetachOption = False,
) -> None:
    """Repeat a step from the recorded rollouts and compare every number. Exit code 1: it is not the same."""
    from oxrl_core import api
    from oxrl_core.cli.watch import exit_code_of, follow_run

    launched = api.replay_run(run_id, step, overrides or [])
    if detach:
        show_launch(out, launched)
        return
    out.note(f"replay {launched.run_id} ({launched.path})")
    run = follow_run(out, launched.run_id, on_interrupt="ask")
    if run.state != "finished":
        show_run(out, run)
        raise typer.Exit(exit_code_of(run) if run.has_ended else 0)
    view = api.get_replay(run.run_id)
    out.show(view, draw_replay)
    if not view.equal:
        raise typer.Exit(1)


@command(app, "fork")
def fork(
    out: Output,
    run_id: RunArgument,
    step: StepOption,
    overrides: Overrides = None,
    detach: DetachOption = False,
    key: KeyOption = "",
    dry_run: DryRunOption = False,
) -> None:
    """Start a new run from the state of another after a step, with other values."""
    from oxrl_core import api
    from oxrl_core.cli.watch import exit_code_of, follow_run

    launched = api.fork_run(run_id, step, overrides or [], key=key, dry_run=dry_run)
    if detach or dry_run:
        show_launch(out, launched)
        return
    out.note(f"run {launched.run_id} ({launched.path})")
    view = follow_run(out, launched.run_id, on_interrupt="ask")
    show_run(out, view)
    if view.has_ended and view.state != "finished":
        raise typer.Exit(exit_code_of(view))


def draw_replay(view: ReplayView) -> Iterable[Any]:
    """A replay for a person: the verdict, what differs, and what would have been."""
    from oxrl_core.cli.tables import next_line, pairs, styled, table
    from oxrl_core.cli.text import number

    if view.equal:
        yield styled(f"step {view.step} of {view.of} is the same, bit for bit", "green")
    else:
        yield styled(f"step {view.step} of {view.of} is not the same: {view.num_differences} differences", "red")
    compared = ", ".join(f"{count} {what}" for what, count in view.compared.items())
    rows = [("from", view.started_from), ("steps repeated", str(view.repeated_steps)), ("compared", compared)]
    if view.not_compared:
        rows.append(("not compared", ", ".join(view.not_compared)))
    yield pairs(rows)
    if view.differences:
        shown = table("step", "what", "where", "recorded", "replayed", "largest", right=("step",))
        for one in view.differences[:15]:
            values = (one.recorded, one.replayed, one.largest)
            cells = (str(one.step), one.name, one.where, *map(number, values))
            shown.add_row(*(styled(cell) for cell in cells))
        yield shown
    if view.what_if is not None:
        yield styled(f"with {' '.join(view.what_if.overrides)}", "bold")
        if not view.what_if.metrics:
            yield styled("  no metric would have been another")
        else:
            changes = table("metric", "was", "would be", right=("was", "would be"))
            for change in view.what_if.metrics:
                changes.add_row(*(styled(cell) for cell in (change.name, number(change.was), number(change.would_be))))
            yield changes
        yield styled(f"  largest change of a weight: {number(view.what_if.largest_weight_change)}")
    if view.next:
        yield next_line(view.next)
