"""`oxrl train`: launch and watch."""

from __future__ import annotations

from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import ConfigArgument, DryRunOption, KeyOption, Overrides, app, show_launch, show_run


@command(app, "train")
def train(
    out: Output,
    config: ConfigArgument,
    overrides: Overrides = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Launch, print the run id, and leave.")] = False,
    key: KeyOption = "",
    dry_run: DryRunOption = False,
) -> None:
    """Launch a run and watch it. Ctrl-C asks whether to stop it."""
    from oxrl_core import api
    from oxrl_core.cli.watch import exit_code_of, follow_run

    launched = api.launch_run(config, overrides or [], key=key, dry_run=dry_run)
    if detach or dry_run:
        show_launch(out, launched)
        return
    out.note(f"run {launched.run_id} ({launched.path})")
    view = follow_run(out, launched.run_id, on_interrupt="ask")
    show_run(out, view)
    if view.has_ended and view.state != "finished":
        raise typer.Exit(exit_code_of(view))
