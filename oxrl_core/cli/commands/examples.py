"""`oxrl examples`: recipes to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oxrl_core.cli.command import FormatOption, JsonOption, command
from oxrl_core.cli.render import Format, Output
from oxrl_core.cli.root import app, group

examples_app = group("examples", "Recipes to start from.", runs_alone=True)

AllOption = Annotated[bool, typer.Option("--all", help="Also the recipes of the contributed losses.")]


@examples_app.callback()
def examples(
    context: typer.Context,
    show_all: AllOption = False,
    output_format: FormatOption = Format.auto,
    as_json: JsonOption = False,
) -> None:
    """Recipes to start from (default: list)."""
    if context.invoked_subcommand is None:
        options = ["--all"] if show_all else []
        app(["examples", "list", *options, "--format", "json" if as_json else output_format], prog_name="oxrl")


@command(examples_app, "list")
def examples_list(out: Output, show_all: AllOption = False) -> None:
    """Recipes with what they do."""
    from oxrl_core.cli.catalogues import list_examples
    from oxrl_core.cli.tables import draw_catalogue

    out.show(list_examples(with_others=show_all), draw_catalogue)


@command(examples_app, "show")
def examples_show(out: Output, name: Annotated[str, typer.Argument(help="Name of a recipe.")]) -> None:
    """The YAML of a recipe."""
    from oxrl_core.cli.catalogues import find_example

    out.text(find_example(name).read_text(encoding="utf-8"))


@command(examples_app, "copy")
def examples_copy(
    out: Output,
    name: Annotated[str, typer.Argument(help="Name of a recipe.")],
    target: Annotated[Path | None, typer.Argument(help="File or folder; none: NAME.yaml here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a recipe to a file of your own."""
    from oxrl_core.cli.catalogues import copy_example

    path = copy_example(name, target, force=force)
    out.note(f"next: edit it, then: oxrl train {path}")
    out.text(str(path))
