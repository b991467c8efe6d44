"""Completions of what a person types into a prompt or a resource's address."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp.types import Completion

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

MOST = 50
TASKS = ("mathematics", "code", "following instructions", "preferences", "reasoning", "vision", "speech")


def add_completions(server: MCPServer[Any]) -> None:
    """Gives the server its completions."""

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion | None:
        import asyncio

        found = await asyncio.to_thread(values_of, str(argument.name))
        typed = str(argument.value).lower()
        kept = [value for value in found if typed in value.lower()]
        kept.sort(key=lambda value: not value.lower().startswith(typed))
        return Completion(values=kept[:MOST], total=len(kept), has_more=len(kept) > MOST)

    _ = complete


def values_of(name: str) -> list[str]:
    """All values of an argument of this name; none where anything may be typed."""
    if name == "run_id":
        from oxrl_core.runs.launch import run_ids
        from oxrl_core.runs.rundir import oxrl_home

        return run_ids(oxrl_home())
    if name == "model":
        from oxrl_core.config.registry import model_slugs

        slugs = model_slugs()
        return [*slugs, "miniature:chars", *(f"miniature:{slug}" for slug in slugs)]
    if name == "config_id":
        from mcp_server.tools.arguments import config_folder

        return newest_first(config_folder(), "*.yaml")
    if name == "draft_id":
        from oxrl_core.runs.rundir import oxrl_home

        return [name.removesuffix(".json") for name in newest_first(oxrl_home() / "reports", "draft-*.json")]
    if name == "section":
        from oxrl_core.config.schema import Config

        return list(Config.model_fields)
    return list(TASKS) if name == "task" else []


def newest_first(folder: Path, pattern: str) -> list[str]:
    """The names of the folder's files that match, the newest first; none where there is no folder."""
    dated: list[tuple[float, str]] = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # it may go while it is looked at
            dated.append((path.stat().st_mtime, path.name))
    return [name for _, name in sorted(dated, reverse=True)]
