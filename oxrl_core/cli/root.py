"""The root of the command line, and what its commands share: arguments, options, the ways to show a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from oxrl_core.cli.render import Format, Output

if TYPE_CHECKING:
    from oxrl_core.runs.views import LaunchResult

# rich help costs 0.25 s at every call of --help; plain help is as readable.
app = typer.Typer(
    help="Post-training of language models, for people and AI agents.",
    epilog="Start: oxrl doctor, oxrl train demo. Coding agents: oxrl agent-docs.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe (oxrl examples).")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[a.b=c]...", help="Values that win over the file.")]
RunArgument = Annotated[str, typer.Argument(help="Run id, its beginning, a name, or `latest`.")]
KeyOption = Annotated[str, typer.Option(help="The same key and config launch once, however often this is called.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check everything and say what it takes; start nothing.")]


def group(name: str, summary: str, *, runs_alone: bool = False) -> typer.Typer:
    """A group of commands below the root: `oxrl NAME ...`; one that `runs_alone` has a callback for no command."""
    commands = typer.Typer(
        help=summary, rich_markup_mode=None, no_args_is_help=not runs_alone, invoke_without_command=runs_alone
    )
    app.add_typer(commands, name=name)
    return commands


def show_launch(out: Output, launched: LaunchResult) -> None:
    """Shows what was launched or planned; leaves with exit code 2 where the plan cannot work."""
    from oxrl_core.cli.tables import draw_launch

    if launched.plan is not None and out.format is not Format.json:  # `config explain` shows the whole configuration
        plan = launched.plan.model_copy(update={"config_yaml": ""})
        launched = launched.model_copy(update={"plan": plan})
    out.show(launched, draw_launch)
    if launched.plan is not None and not launched.plan.ok:
        raise typer.Exit(2)


def show_run(out: Output, view: object) -> None:
    """Shows a run."""
    from oxrl_core.cli.tables import draw_run
    from oxrl_core.runs.views import RunView

    assert isinstance(view, RunView)
    out.show(view, draw_run)
