"""How long a tool may wait in each host, by the name the client gives itself."""

from __future__ import annotations

import os
from collections.abc import Mapping

UNKNOWN_HOST_SECONDS = 45.0  # under the 60 s at which several hosts give up

# Each below the host's own limit: Claude Code ends an idle call after 30 min, gemini-cli any call after 10 min.
HOST_SECONDS = {"claude-code": 1500.0, "gemini-cli-mcp-client": 540.0}


def longest_wait(client_name: str, environment: Mapping[str, str] = os.environ) -> float:
    """Seconds that one call may take in this host; OXRL_MCP_MAX_WAIT_SECONDS overrides."""
    override = environment.get("OXRL_MCP_MAX_WAIT_SECONDS", "")
    try:
        return max(0.0, float(override)) if override else HOST_SECONDS.get(client_name, UNKNOWN_HOST_SECONDS)
    except ValueError:
        return HOST_SECONDS.get(client_name, UNKNOWN_HOST_SECONDS)
