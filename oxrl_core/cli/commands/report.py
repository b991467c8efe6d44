"""`oxrl report` and `oxrl compare`: runs as something to look at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import RunArgument, app

if TYPE_CHECKING:
    from oxrl_core.runs.analysis.compare import ComparisonView


@command(app, "report")
def report(
    out: Output,
    run_id: RunArgument = "latest",
    to: Annotated[Path | None, typer.Option("--out", "-o", help="The file; none: report.html in the run.")] = None,
) -> None:
    """Write one HTML file about a run: plots, samples, configuration, events, diagnosis. It needs no network."""
    from oxrl_core import api

    out.show(api.write_report(run_id, out=to))


@command(app, "compare")
def compare(
    out: Output, run_ids: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="2 to 10 runs.")]
) -> None:
    """Say how runs differ: configuration, metrics, and whether the seeds agree that it is no chance."""
    from oxrl_core import api

    out.show(api.compare_runs(run_ids), _draw)


def _draw(view: ComparisonView) -> Iterable[Any]:
    from oxrl_core.cli.tables import state_text, styled, table, width
    from oxrl_core.cli.text import number

    runs = table("", "run", "state", "step", "seed", "config", right=("step", "seed"), narrow=("run",))
    for run in view.runs:
        runs.add_row(run.label, run.run_id, state_text(run.state), str(run.step), number(run.seed), run.configuration)
    yield runs
    if view.differing:
        keys = table("key", "values")
        for key in view.differing:
            by_value: dict[str, list[str]] = {}
            for label, value in key.values.items():
                by_value.setdefault(value, []).append(label)
            keys.add_row(key.key, styled("  ".join(f"{''.join(who)}: {value}" for value, who in by_value.items())))
        yield keys
    else:
        yield styled("The configurations are the same.", "dim")
    numbers = ("first", "final", "best")
    curves = table("metric", "", *numbers, "course", right=numbers, narrow=("metric", "", *numbers, "course"))
    before = ""
    for curve in view.curves:
        values = [number(value) for value in (curve.first, curve.final, curve.best)]
        course = curve.course[: max(6, width() - 58)]
        curves.add_row("" if curve.metric == before else curve.metric, curve.run, *values, course)
        before = curve.metric
    yield curves
    if view.tests:
        tests = table("metric", "configs", "n", "difference (95 %)", "p", "verdict", narrow=("metric", "n", "p"))
        for test in view.tests:
            interval = f"{number(test.difference)} ({number(test.low)} to {number(test.high)})"
            pair, sizes = f"{test.baseline} to {test.other}", f"{test.num_baseline}, {test.num_other}"
            tests.add_row(test.metric, pair, sizes, interval, number(test.p), test.verdict)
        yield tests
        yield styled(f"final values over seeds; {view.tests[0].method}; p after Holm", "dim")
    yield from (styled(f"note  {note}", "yellow") for note in view.notes)
