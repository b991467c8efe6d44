"""`oxrl-mcp`: serves MCP over stdin and stdout until the client closes them, or over HTTP."""

from __future__ import annotations

import argparse
import gc
import sys
import threading

HELP = (
    "oxrl-mcp speaks the Model Context Protocol on stdin and stdout. It is started by an MCP client (Claude Code, "
    "gemini-cli, ...); docs/mcp.md shows the settings.\n\n"
    "Environment: OXRL_HOME (where runs live), OXRL_MCP_MAX_WAIT_SECONDS (longest wait of watch_run), "
    "OXRL_MCP_TOOLSETS, OXRL_MCP_READ_ONLY, OXRL_MCP_MAX_GPU_HOURS, OXRL_MCP_ASK_ABOVE_GPU_HOURS, "
    "OXRL_MCP_MAX_CONCURRENT_RUNS, OXRL_MCP_ROOTS (what a tool may and may not do), OXRL_MCP_TOKEN (with --http)."
)


def main() -> None:
    """Serves until end of file; runs that were launched go on without the server."""
    # A terminal user who types `oxrl-mcp --help` must not be left in front of a silent protocol stream.
    parser = argparse.ArgumentParser(prog="oxrl-mcp", description=HELP)
    parser.add_argument("--http", type=int, metavar="PORT", help="serve streamable HTTP there instead; needs a token")
    parser.add_argument("--host", default="127.0.0.1", help="with --http: address to listen on (127.0.0.1)")
    arguments = parser.parse_args()
    # Importing the SDK makes half a million objects and no garbage: looking for some would take a tenth of the start.
    gc.disable()
    if arguments.http is None:
        # The SDK takes it along where it is there, for servers on the web: a twentieth of the start and of the memory.
        sys.modules["uvicorn"] = None  # pyright: ignore[reportArgumentType]  # None: "cannot be imported"
    from mcp_server.memory import keep_one_heap
    from mcp_server.server import build_server
    from oxrl_core.errors import OxrlError

    try:
        server = build_server()
        gc.freeze()
        gc.enable()
        keep_one_heap()
        # Beside the first messages: a run whose supervisor died while nobody looked gets another one.
        threading.Thread(target=_adopt_orphans, daemon=True).start()
        if arguments.http is None:
            from mcp_server.pipes import serve_pipes

            serve_pipes(server)
        else:
            from mcp_server.http import serve

            serve(server, arguments.host, arguments.http)
    except OxrlError as error:
        print(f"oxrl-mcp: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _adopt_orphans() -> None:
    import sqlite3

    from oxrl_core import api
    from oxrl_core.errors import OxrlError

    try:
        adopted = api.adopt_orphans()
    except (OxrlError, OSError, sqlite3.Error) as error:  # every tool that needs the home says it
        print(f"oxrl-mcp: runs were not looked through: {error}", file=sys.stderr)
        return
    if adopted:
        print(f"oxrl-mcp: supervised again: {', '.join(adopted)}", file=sys.stderr)


if __name__ == "__main__":
    main()
