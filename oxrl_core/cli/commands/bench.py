"""`oxrl bench`: measurements of oxRL itself."""

from __future__ import annotations

from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Format, Output
from oxrl_core.cli.root import group

bench_app = group("bench", "Measurements of oxRL itself.")


@command(bench_app, "learn")
def bench_learn(
    out: Output,
    algorithms: Annotated[list[str] | None, typer.Argument(help="Algorithms; none: the 18 that must learn.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with seeds 0, 1, ...")] = 3,
    flip: Annotated[bool, typer.Option("--flip", help="Turn the sign of every loss: nothing may learn then.")] = False,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds that one run may take, with its start-up.")] = 600,
) -> None:
    """Train with every algorithm on this machine's CPU and measure whether what it promises got better.

    Exit code 1 where one did not improve by more than 3 standard errors, or with --flip where one improved.
    """
    from oxrl_core.cli.bench import run_bench
    from oxrl_core.cli.tables import draw_learning

    report = run_bench(algorithms or [], seeds=seeds, flip=flip, deadline_seconds=deadline, tell=out.note)
    shown = report if out.format is Format.json else report.model_copy(update={"outcomes": []})
    out.show(shown, draw_learning)
    if not report.ok:
        raise typer.Exit(1)
