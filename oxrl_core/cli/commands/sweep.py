"""`oxrl sweep`: many runs over a space of values, and one summary."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from oxrl_core.cli.command import INTERRUPTED, command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import ConfigArgument, app

if TYPE_CHECKING:
    from oxrl_core.runs.sweep.sweeps import SweepView, Trial


class _RunsByDefault(TyperGroup):
    """`oxrl sweep CONFIG ...` is `oxrl sweep run CONFIG ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


sweep_app = typer.Typer(
    cls=_RunsByDefault,
    help="Many runs over a space of values: oxrl sweep CONFIG key=[a,b,c] key2=log:1e-6..1e-4 --samples 8",
    rich_markup_mode=None,
    no_args_is_help=True,
)
app.add_typer(sweep_app, name="sweep")


@command(sweep_app, "run")
def sweep_run(
    out: Output,
    config: ConfigArgument,
    space: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=values]...", help="[a,b], log:1e-6..1e-4, uniform:0..1, int:1..8"),
    ] = None,
    space_file: Annotated[Path | None, typer.Option("--space", help="A YAML file with the same: key: [a, b].")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Draw so many points; none: the whole grid.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    parallel: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    metric: Annotated[str, typer.Option(help="What trials are ranked by; none: held-out reward, reward, loss.")] = "",
    goal: Annotated[str, typer.Option(help="max or min; none: as the metric is known to be.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the trials and launch nothing.")] = False,
) -> None:
    """Launch the runs of a space one after the other (or K at once) until all have ended; the same call goes on.

    Ctrl-C stops the runs cleanly. Exit code 1 where a trial failed.
    """
    from oxrl_core import api
    from oxrl_core.errors import ConfigError

    if goal not in ("", "max", "min"):
        raise ConfigError(f"{goal!r} is no goal", "--goal", "say max or min")
    sweep = api.plan_sweep(
        config, space or [], space_file=space_file, samples=samples, seed=seed, metric=metric,
        goal=goal,
    )  # fmt: skip
    if dry_run:
        out.show(sweep, _draw)
        return
    total = len(sweep.trials)
    out.note(f"sweep {sweep.sweep_id}: {total} trials, {parallel} at once")

    def say(what: str, trial: Trial) -> None:
        point = " ".join(f"{key}={value}" for key, value in trial.point.items())
        result = f" {trial.state}" if what == "ended" else f": {trial.error}" if what == "refused" else ""
        out.note(f"trial {trial.index + 1}/{total} {what}{result}  {point}  {trial.run_id}")

    before = signal.signal(signal.SIGTERM, _interrupt)  # whoever ends the driver means its runs
    try:
        sweep = api.run_sweep(config, sweep, parallel=parallel, say=say)
    finally:
        signal.signal(signal.SIGTERM, before)
    out.show(sweep, _draw)
    if sweep.state == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if sweep.num_failed:
        raise typer.Exit(1)


@command(sweep_app, "show")
def sweep_show(
    out: Output, sweep_id: Annotated[str, typer.Argument(help="Sweep id, its beginning, or `latest`.")] = "latest"
) -> None:
    """Show a sweep: every trial with its values, the best first."""
    from oxrl_core import api

    out.show(api.show_sweep(sweep_id), _draw)


@command(sweep_app, "list")
def sweep_list(out: Output) -> None:
    """Sweeps, newest first."""
    from oxrl_core import api
    from oxrl_core.cli.results import Catalogue, Entry

    entries = [
        Entry(
            name=sweep.sweep_id,
            summary=f"{sweep.state}, {sweep.num_finished} of {len(sweep.trials)} finished, {sweep.num_failed} failed",
        )
        for sweep in api.list_sweeps()
    ]
    out.show(Catalogue(entries=entries, next="oxrl sweep show ID" if entries else "oxrl sweep CONFIG key=[a,b]"))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _draw(sweep: SweepView) -> Iterable[Any]:
    from oxrl_core.cli.tables import next_line, state_text, styled, table
    from oxrl_core.cli.text import number

    yield styled(f"{sweep.sweep_id}: {sweep.state}, {sweep.num_finished} of {len(sweep.trials)} finished", "bold")
    varied = [key for key in (sweep.trials[0].point if sweep.trials else {}) if _varies(sweep, key)]
    made = table("", *varied, sweep.metric or "value", "best", "state", "run", right=(sweep.metric or "value", "best"))
    order = {index: rank for rank, index in enumerate(sweep.ranking)}
    for trial in sorted(sweep.trials, key=lambda one: (order.get(one.index, len(order)), one.index)):
        values = [styled(number(trial.point.get(key))) for key in varied]
        style = "bold green" if order.get(trial.index) == 0 else ""
        made.add_row(
            str(trial.index), *values, styled(number(trial.value), style), number(trial.best),
            state_text(trial.state), trial.run_id,
        )  # fmt: skip
    yield made
    for trial in sweep.trials:
        if trial.error:
            yield styled(f"trial {trial.index}: {trial.error}", "red")
    if sweep.next:
        yield next_line(sweep.next)


def _varies(sweep: SweepView, key: str) -> bool:
    return len({repr(trial.point.get(key)) for trial in sweep.trials}) > 1 or len(sweep.trials) == 1
