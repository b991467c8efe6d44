"""`oxrl agent-docs`, `oxrl mcp`: for coding agents."""

from __future__ import annotations

from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import app, group

mcp_app = group("mcp", "The MCP server for AI agents.")


@command(app, "agent-docs")
def agent_docs(
    out: Output, topic: Annotated[str, typer.Argument(help="A topic; none: the overview.")] = "overview"
) -> None:
    """How to work with oxRL, written for coding agents."""
    from oxrl_core.cli.catalogues import read_topic

    out.text(read_topic(topic))


@command(mcp_app, "config")
def mcp_config(
    out: Output, client: Annotated[str, typer.Option(help="claude or gemini.", metavar="claude|gemini")] = "claude"
) -> None:
    """The exact JSON that makes an agent's program start the MCP server of this environment."""
    from oxrl_core.cli.catalogues import mcp_settings

    settings = mcp_settings(client)
    out.write(settings.json)  # exactly this, in every format: it is made to go into a file
    out.note(f"goes into {settings.file} ({settings.client})")
