"""The settings that make an agent's program start `oxrl-mcp` from this environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GEMINI_TIMEOUT_MS = 600_000  # gemini-cli's own default, written out because watch_run's wait is cut to stay below it


@dataclass(frozen=True)
class ClientSettings:
    """What goes into which file of one client."""

    client: str
    file: str
    json: str


def server_command() -> list[str]:
    """The absolute command of this environment's MCP server."""
    script = Path(sys.executable).parent / "oxrl-mcp"
    return [str(script)] if script.exists() else [sys.executable, "-m", "mcp_server"]


def client_settings(command: list[str], environment: Mapping[str, str] | None = None) -> list[ClientSettings]:
    """The settings of Claude Code and gemini-cli for this command; `environment` is set for the server as it is."""
    start: dict[str, Any] = {"command": command[0], **({"args": command[1:]} if command[1:] else {})}
    given = dict(environment or {})
    # gemini-cli strips variables with TOKEN in their name from what a server inherits: it must be named here.
    claude = {**start, "env": {**given, "HF_TOKEN": "${HF_TOKEN:-}"}}
    gemini = {**start, "env": {**given, "HF_TOKEN": "$HF_TOKEN"}, "timeout": GEMINI_TIMEOUT_MS}
    return [
        ClientSettings(
            "Claude Code", ".mcp.json in your project", json.dumps({"mcpServers": {"oxrl": claude}}, indent=2)
        ),
        ClientSettings("gemini-cli", "~/.gemini/settings.json", json.dumps({"mcpServers": {"oxrl": gemini}}, indent=2)),
    ]
