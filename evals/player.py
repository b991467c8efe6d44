"""The reference player: a client without a model that plays one task by a script, over stdio as any other client.

python -m evals.player TASK MCP_SETTINGS_FILE
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

from evals.task import all_tasks

CALL_SECONDS = 300


class ToolError(Exception):
    """A tool's error: its code, what, where and next."""

    def __init__(self, name: str, error: dict[str, Any]) -> None:
        super().__init__(f"{name}: {error}")
        self.error = error


class ClientTools:
    """The tools of a connected client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """The structured answer; a tool's error is raised."""
        result = await self._client.call_tool(name, arguments)
        if result.is_error:
            raise ToolError(name, json.loads(getattr(result.content[0], "text", "{}")))
        return dict(result.structured_content or {})


async def play(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The answer of the task's script."""
    server = settings["mcpServers"]["oxrl"]
    parameters = StdioServerParameters(
        command=server["command"], args=server.get("args", []), env={**os.environ, **server.get("env", {})}
    )
    async with Client(parameters, read_timeout_seconds=CALL_SECONDS) as client:
        await client.list_tools()  # every host does, and it is counted
        return await all_tasks()[name].play(ClientTools(client))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(play(sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))))))
