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


ClientOption = Annotated[str, typer.Option(help="Which program: claude, gemini, antigravity, cursor or vscode.")]
ScopeOption = Annotated[
    bool | None, typer.Option("--project/--user", help="The file of this folder, or of you everywhere.")
]


@command(mcp_app, "config")
def mcp_config(out: Output, client: ClientOption = "claude") -> None:
    """The exact JSON that makes an agent's program start the MCP server of this environment."""
    _print_settings(out, client, None)


@command(mcp_app, "serve")
def mcp_serve(out: Output) -> None:
    """Be the MCP server on standard input and output, as `oxrl-mcp` is."""
    import os

    from oxrl_core.agent_clients import server_command

    words = server_command()
    os.execv(words[0], words)  # in place of this process: a client that ends it ends the server


@command(mcp_app, "install")
def mcp_install(
    out: Output,
    client: ClientOption = "claude",
    project: ScopeOption = None,
    print_only: Annotated[bool, typer.Option("--print", help="Show what would go in; change no file.")] = False,
) -> None:
    """Put the MCP server into a program's settings; everything else in the file stays, the old file beside it."""
    from oxrl_core.cli.catalogues import change_client

    if print_only:
        _print_settings(out, client, project)
        return
    out.show(change_client(client, project=project))


@command(mcp_app, "uninstall")
def mcp_uninstall(out: Output, client: ClientOption = "claude", project: ScopeOption = None) -> None:
    """Take the MCP server out of a program's settings."""
    from oxrl_core.cli.catalogues import change_client

    out.show(change_client(client, project=project, take_out=True))


def _print_settings(out: Output, client: str, project: bool | None) -> None:
    from oxrl_core.cli.catalogues import mcp_settings

    settings = mcp_settings(client, project=project)
    out.write(settings.json)  # exactly this, in every format: it is made to go into a file
    out.note(f"goes into {settings.file} ({settings.client})")
