"""`oxrl score`: completions and a reward."""

from __future__ import annotations

from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import app


@command(app, "score")
def score(
    out: Output,
    file: Annotated[str, typer.Argument(help="JSONL; `-`: standard input.")] = "-",
    reward: Annotated[str, typer.Option(help="A reward (oxrl rewards), or your own as in a configuration.")] = "",
    answer_key: Annotated[str, typer.Option(help="Where a row holds its reference answer.")] = "answer",
    completion_key: Annotated[str, typer.Option(help="Where a row holds the completion.")] = "completion",
    param: Annotated[list[str] | None, typer.Option(help="A parameter of the reward, as letters=ABCD.")] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds for the verdicts of up to 64 rows.")] = 30.0,
) -> None:
    """Score completions with a reward: JSONL in (completion, answer, prompt, ...), JSONL out, as in training.

    Every line gives one line: its number or id, score and status (ok, no_answer, timeout, error), parts and detail.
    Exit code 1 where a line has no verdict.
    """
    from oxrl_core.cli.score import score_lines

    keys = (answer_key, completion_key)
    if not score_lines(out, file, reward=reward, params=param or [], keys=keys, timeout_seconds=timeout):
        raise typer.Exit(1)
