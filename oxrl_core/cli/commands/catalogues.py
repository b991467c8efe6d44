"""`oxrl algorithms`, `oxrl rewards`, `oxrl datasets`: what a configuration can name."""

from __future__ import annotations

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import app


@command(app, "algorithms")
def algorithms(out: Output) -> None:
    """Losses that a configuration can name, with their parameters."""
    from oxrl_core.cli.catalogues import list_algorithms
    from oxrl_core.cli.tables import draw_catalogue

    out.show(list_algorithms(), draw_catalogue)


@command(app, "rewards")
def rewards(out: Output) -> None:
    """Rewards that a configuration can name."""
    from oxrl_core.cli.catalogues import list_rewards
    from oxrl_core.cli.tables import draw_catalogue

    out.show(list_rewards(), draw_catalogue)


@command(app, "datasets")
def datasets(out: Output) -> None:
    """Datasets that are built in; files and hub datasets need no entry."""
    from oxrl_core.cli.catalogues import list_datasets
    from oxrl_core.cli.tables import draw_catalogue

    out.show(list_datasets(), draw_catalogue)
