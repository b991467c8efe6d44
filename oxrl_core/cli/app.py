"""The command line, whole: the root with every command that a module of `commands` adds."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated

import typer

from oxrl_core.cli import commands
from oxrl_core.cli.root import app

for module in pkgutil.iter_modules(commands.__path__):
    importlib.import_module(f"{commands.__name__}.{module.name}")


def main(argv: list[str] | None = None) -> int:
    """The exit code of the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore  # a latin-1 terminal must not end a command
    try:
        app(argv, prog_name="oxrl")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    return 0


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"oxrl {version('oxrl')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Post-training of language models, for people and AI agents."""
