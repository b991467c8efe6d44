"""`oxrl merge` and `oxrl push`: a trained model as others want it."""

from __future__ import annotations

from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import app


@command(app, "merge")
def merge(
    out: Output,
    name: Annotated[str, typer.Argument(metavar="RUN|ADAPTER_FOLDER", help="A run, or a folder with an adapter.")],
    to: Annotated[str, typer.Option("--out", help="Folder to write; none: `merged` beside the adapter's run.")] = "",
    base: Annotated[str, typer.Option(help="Folder or hub id of the base; none: what the run or adapter names.")] = "",
) -> None:
    """Merge LoRA adapters into their base: a folder that transformers and vLLM load, bit for bit as PEFT merges."""
    from oxrl_core.runs.export.merge import merge_adapter

    out.show(merge_adapter(name, to, base))


@command(app, "push")
def push(
    out: Output,
    name: Annotated[str, typer.Argument(metavar="RUN|MODEL_FOLDER", help="A run that finished, or a model folder.")],
    repo: Annotated[str, typer.Argument(help="Repository of the hub: owner/name.")],
    public: Annotated[bool, typer.Option("--public", help="A repository that is made for it is public.")] = False,
) -> None:
    """Push a final model with its card to the hub. The token is $HF_TOKEN; a new repository is private."""
    from oxrl_core.runs.export.push import push_model

    out.show(push_model(name, repo, private=not public))
