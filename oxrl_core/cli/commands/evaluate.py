"""`oxrl evaluate`: how a model scores on held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import DryRunOption, KeyOption, Overrides, app, show_launch, show_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxrl_core.runs.evaluation import EvaluationView


@command(app, "evaluate")
def evaluate(
    out: Output,
    target: Annotated[str, typer.Argument(help="A run (its final model), a folder, a hub id, or miniature:chars.")],
    overrides: Overrides = None,
    dataset: Annotated[str, typer.Option(help="Held-out data; none: the run's own.")] = "",
    split: Annotated[str, typer.Option(help="Split of it.")] = "",
    reward: Annotated[str, typer.Option(help="Reward that judges; none: the run's own.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most rows.")] = 256,
    samples: Annotated[int, typer.Option(min=1, help="Completions of each prompt, with --temperature.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy.")] = 0.0,
    step: Annotated[int, typer.Option(min=-1, help="The run's checkpoint of this step; -1: its final model.")] = -1,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Launch, print the run id, and leave.")] = False,
    key: KeyOption = "",
    dry_run: DryRunOption = False,
) -> None:
    """Mean reward, accuracy and standard error of a model on held-out rows; every completion is recorded."""
    from oxrl_core import api
    from oxrl_core.cli.watch import exit_code_of, follow_run

    launched = api.evaluate_run(
        target,
        dataset=dataset,
        split=split,
        reward=reward,
        limit=limit,
        samples=samples,
        temperature=temperature,
        step=step,
        overrides=overrides or [],
        key=key,
        dry_run=dry_run,
    )
    if detach or dry_run:
        show_launch(out, launched)
        return
    out.note(f"evaluation {launched.run_id} ({launched.path})")
    run = follow_run(out, launched.run_id, on_interrupt="ask")
    if run.state != "finished":
        show_run(out, run)
        raise typer.Exit(exit_code_of(run) if run.has_ended else 0)
    out.show(api.get_evaluation(run.run_id), draw_evaluation)


def draw_evaluation(view: EvaluationView) -> Iterable[Any]:
    """An evaluation for a person: the numbers, then the worst and the best completions."""
    from oxrl_core.cli.tables import pairs, styled, table
    from oxrl_core.cli.text import number

    of = view.of if view.step is None else f"{view.of}, step {view.step}"
    mean = number(view.mean) + ("" if view.standard_error is None else f" ± {number(view.standard_error)}")
    yield pairs(
        [
            ("model", of),
            ("data", f"{view.dataset} ({view.prompts} prompts, {view.completions} completions)"),
            ("reward", f"{view.reward}: {mean}"),
            ("accuracy", number(view.accuracy)),
            ("verdicts", ", ".join(f"{name} {count}" for name, count in view.statuses.items())),
            ("length", f"{number(view.length)} tokens, {number(view.truncated)} cut off"),
        ]
    )
    shown = table("prompt", "completion", "reward", right=("reward",))
    for one in view.samples:
        shown.add_row(*(styled(cell) for cell in (one.prompt[-30:], one.completion[-30:], number(one.reward))))
    yield shown
