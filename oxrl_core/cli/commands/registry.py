"""`oxrl registry verify` and `oxrl registry import`: entries held against the world, and entries from before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import group

if TYPE_CHECKING:
    from collections.abc import Iterable

    from swarm.registry.imports import ImportView
    from swarm.registry.verify import EntryView, RegistryView

registry_app = group("registry", "The registry of models: entries verified, entries imported.")


@command(registry_app, "verify")
def verify_entries(
    out: Output,
    slugs: Annotated[list[str] | None, typer.Argument(help="Names of entries.")] = None,
    all_entries: Annotated[bool, typer.Option("--all", help="Every entry.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="Only what entries say; nothing is trained.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep what is measured as the evidence.")] = False,
    workers: Annotated[int, typer.Option(help="Miniatures at once.", min=1, max=64)] = 1,
) -> None:
    """Verify entries: facts against the architecture, a run of the miniature against the criteria. Exit code 1: not."""
    from oxrl_core.errors import ConfigError
    from swarm.registry import verify_registry

    if bool(slugs) == all_entries:
        raise ConfigError("names of entries, or --all", "oxrl registry verify", "oxrl registry verify qwen3-0.6b")

    def say(view: EntryView) -> None:
        out.note(f"{view.slug}: {'verified' if view.verified else '; '.join(view.failed)[:300]} ({view.seconds:g} s)")

    view = verify_registry(slugs or (), workers=workers, facts_only=facts, record=record, say=say)
    out.show(view, draw_registry)
    if view.verified < view.of:
        raise typer.Exit(1)


@command(registry_app, "import")
def import_entries(
    out: Output, folder: Annotated[Path, typer.Argument(help="Folder with a folder for each model.")]
) -> None:
    """Import entries of earlier versions (config.yaml, results.json, manifest.json) into your own registry."""
    from swarm.registry import import_registry

    view = import_registry(folder)
    out.show(view, draw_import)
    if not any(one.path for one in view.models):
        raise typer.Exit(1)


def draw_registry(view: RegistryView) -> Iterable[Any]:
    """Entries for a person: which are as stated, and what is not."""
    from oxrl_core.cli.tables import styled, table

    shown = table("entry", "verified", "level", "seconds", "not met", right=("seconds",))
    for one in view.entries:
        word, colour = ("yes", "green") if one.verified else ("no", "red")
        missed = styled("; ".join(one.failed)[:200])
        shown.add_row(styled(one.slug), styled(word, colour), styled(one.level), styled(f"{one.seconds:g}"), missed)
    yield shown
    yield styled(f"{view.verified} of {view.of} verified in {view.seconds:g} s")


def draw_import(view: ImportView) -> Iterable[Any]:
    """Imported models for a person."""
    from oxrl_core.cli.tables import styled, table

    shown = table("model", "entry", "differs in", "claimed", "problem")
    for one in view.models:
        cells = (one.slug, one.path, ", ".join(one.config), str(one.claims.get("status", "")), one.problem[:80])
        shown.add_row(*map(styled, cells))
    yield shown
