"""`oxrl-mcp`: serves MCP over stdin and stdout until the client closes them."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Serves until end of file; runs that were launched go on without the server."""
    if len(sys.argv) > 1:
        # A terminal user who types `oxrl-mcp --help` must not be left in front of a silent protocol stream.
        wanted_help = sys.argv[1] in ("-h", "--help")
        print(
            "oxrl-mcp speaks the Model Context Protocol on stdin and stdout and takes no arguments.\n"
            "It is started by an MCP client (Claude Code, gemini-cli, ...); docs/mcp.md shows the settings.\n"
            "Environment: OXRL_HOME (where runs live), OXRL_MCP_MAX_WAIT_SECONDS (longest wait of watch_run).",
            file=sys.stdout if wanted_help else sys.stderr,
        )
        sys.exit(0 if wanted_help else 2)
    # Importing the SDK makes half a million objects and no garbage: looking for some would take a tenth of the start.
    gc.disable()
    from mcp_server.server import build_server

    server = build_server()
    gc.freeze()
    gc.enable()
    server.run()


if __name__ == "__main__":
    main()
