"""`oxrl run`: launch, watch, read, stop."""

from __future__ import annotations

from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Format, Output
from oxrl_core.cli.root import (
    ConfigArgument,
    DryRunOption,
    KeyOption,
    Overrides,
    RunArgument,
    group,
    show_launch,
    show_run,
)

run_app = group("run", "Runs: launch, watch, read, stop.")


@command(run_app, "launch")
def run_launch(
    out: Output, config: ConfigArgument, overrides: Overrides = None, key: KeyOption = "", dry_run: DryRunOption = False
) -> None:
    """Launch a run that goes on by itself, and leave."""
    from oxrl_core import api

    show_launch(out, api.launch_run(config, overrides or [], key=key, dry_run=dry_run))


@command(run_app, "list")
def run_list(
    out: Output,
    state: Annotated[str, typer.Option(help="One state, or `active` for runs that have not ended.")] = "",
    kind: Annotated[str, typer.Option(help="rl, sft, evaluate, ...")] = "",
    name: Annotated[str, typer.Option(help="Part of its name or run id.")] = "",
    since: Annotated[str, typer.Option(help="Begun since then: 24h, 7d, 2026-11-21.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most runs to show.")] = 20,
    cursor: Annotated[str, typer.Option(help="Go on after this run id.")] = "",
) -> None:
    """Runs, newest first."""
    from oxrl_core import api
    from oxrl_core.cli.tables import draw_runs

    found = api.list_runs(state=state, kind=kind, name=name, since=since, limit=limit, cursor=cursor)
    out.show(found, draw_runs)


@command(run_app, "show")
def run_show(out: Output, run_id: RunArgument = "latest") -> None:
    """One run now: state, step, newest metrics, alerts, error."""
    from oxrl_core import api

    show_run(out, api.get_run(run_id))


@command(run_app, "watch")
def run_watch(out: Output, run_id: RunArgument = "latest") -> None:
    """Follow a run until it ends: a live board, plain lines in a pipe, --json a line of JSON at every change.

    Ctrl-C leaves it running. Exit code: that of the run.
    """
    from oxrl_core import api
    from oxrl_core.cli.watch import exit_code_of, follow_run

    view = follow_run(out, api.get_run(run_id).run_id, on_interrupt="leave", json_lines=True)
    if out.format is not Format.json:  # its last line was the ended run
        show_run(out, view)
    if view.has_ended and view.state != "finished":
        raise typer.Exit(exit_code_of(view))


@command(run_app, "stop")
def run_stop(
    out: Output,
    run_id: Annotated[str, typer.Argument(help="Run id, its beginning, or a name.")],
    reason: Annotated[str, typer.Option(help="Kept in the run's record.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Give it no time to save a checkpoint.")] = False,
) -> None:
    """Stop a run: it saves a checkpoint and leaves, and no process stays behind."""
    from oxrl_core import api

    show_run(out, api.stop_run(run_id, reason=reason or "oxrl run stop", force=force))


@command(run_app, "adopt")
def run_adopt(
    out: Output,
    run_id: Annotated[str, typer.Argument(help="Run id, its beginning, or a name.")],
) -> None:
    """Supervise a run again whose supervisor died; a lost one goes on from its last checkpoint."""
    from oxrl_core import api

    show_run(out, api.adopt_run(run_id))


@command(run_app, "resume")
def run_resume(
    out: Output,
    run_id: Annotated[str, typer.Argument(help="Run id, its beginning, or a name.")],
) -> None:
    """Go on with a run that was stopped, failed or was lost, from its newest checkpoint and in its own directory."""
    from oxrl_core import api

    show_launch(out, api.resume_run(run_id))


@command(run_app, "logs")
def run_logs(
    out: Output,
    run_id: RunArgument = "latest",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines from the end.")] = 100,
    grep: Annotated[str, typer.Option(help="Only lines that hold this text.")] = "",
    name: Annotated[str, typer.Option("--log", help="driver, supervisor, or a worker's log.")] = "driver",
    cursor: Annotated[int | None, typer.Option(help="Byte offset of an earlier call: the lines after it.")] = None,
) -> None:
    """The log of a run."""
    from oxrl_core import api

    view = api.read_logs(run_id, cursor=cursor, lines=lines, grep=grep, name=name)
    if out.format is Format.json:
        out.show(view)
        return
    # A log is text: it is shown as it is, so that grep and head work on it.
    out.write("\n".join(view.lines))
    if not view.lines:
        out.note(f"no lines yet in log {view.name} of {view.run_id}; logs: {', '.join(view.names) or 'none'}")


@command(run_app, "metrics")
def run_metrics(
    out: Output,
    run_id: RunArgument = "latest",
    names: Annotated[list[str] | None, typer.Argument(help="Metrics, as reward/mean; none: all.")] = None,
    from_step: Annotated[int, typer.Option(min=0, help="First step.")] = 0,
    max_points: Annotated[int, typer.Option(min=2, help="Thin the rows evenly to this many.")] = 200,
) -> None:
    """Metrics of a run by step."""
    from oxrl_core import api
    from oxrl_core.cli.tables import draw_metrics

    out.show(api.get_metrics(run_id, names or [], from_step=from_step, max_points=max_points), draw_metrics)
