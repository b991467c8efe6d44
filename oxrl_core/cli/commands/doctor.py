"""`oxrl doctor`: what this machine has and lacks."""

from __future__ import annotations

from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import app


@command(app, "doctor")
def doctor(
    out: Output,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also run one real step of each engine (about a minute).")
    ] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend, saying what is done.")] = False,
    rebuild_index: Annotated[
        bool, typer.Option("--rebuild-index", help="Only make the index of the runs anew, from their directories.")
    ] = False,
) -> None:
    """What this machine has and lacks, each with its fix. Exit code 1 where something needed is broken."""
    if rebuild_index:
        from oxrl_core import api

        out.show(api.rebuild_index())
        return
    from oxrl_core.cli.tables import draw_environment
    from oxrl_core.runs.machine.doctor import apply_remedy, check_environment, remedies

    if fix:
        for item in remedies(check_environment()):
            out.note(f"{item.name} ({item.value}): {item.fix}")
            out.note(f"  {apply_remedy(item)}")
    if deep:
        out.note("running one real step of every engine, about a minute ...")
    report = check_environment(deep)
    out.show(report, draw_environment)
    if not report.ok:
        raise typer.Exit(1)
