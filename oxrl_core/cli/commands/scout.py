"""`oxrl scout`: what a model is, what it takes, and whether it can be trained; or models to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import app
from oxrl_core.errors import UserError

GpusOption = Annotated[int, typer.Option("--gpus", help="GPUs to plan for; -1: those of this machine.")]
SizeOption = Annotated[float, typer.Option("--gpu-memory", help="GiB of each of them; 0: of this machine's.")]


@command(app, "scout")
def scout(
    out: Output,
    model: Annotated[str, typer.Argument(help="A folder, hub id, name in the registry, or miniature:<name>.")] = "",
    gpus: GpusOption = -1,
    gpu_memory: SizeOption = 0.0,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of a hub model.")] = "",
    deep: Annotated[bool, typer.Option("--deep", help="Also name its layers, from the empty architecture.")] = False,
    search: Annotated[bool, typer.Option("--search", help="List models; MODEL is what their names hold.")] = False,
    task: Annotated[str, typer.Option(help="Search: text, math, code, image or audio.")] = "",
    max_params: Annotated[float, typer.Option(help="Search: most billions of parameters.")] = 0.0,
    license: Annotated[str, typer.Option(help="Search: licence, for example apache-2.0.")] = "",
    limit: Annotated[int, typer.Option(help="Search: models on a page.")] = 20,
    cursor: Annotated[str, typer.Option(help="Search: next_cursor of the page before.")] = "",
) -> None:
    """Whether a model can be trained here, without its weights or code; --search: models to choose from."""
    from oxrl_core.cli.scouting import draw_models, draw_report
    from swarm.scout import inspect_model, scout_models

    if search:
        out.show(scout_models(model, task, max_params, license, limit, cursor), draw_models)
        return
    if not model:
        raise UserError("no model is named", "MODEL", "oxrl scout MODEL, or oxrl scout --search [WORDS]")
    report = inspect_model(model, gpus, gpu_memory, "full" if deep else "brief", revision)
    out.show(report, draw_report)
    if report.verdict == "no":
        raise typer.Exit(2)
