"""The server as a process: what it loads, how it answers raw protocol lines, that it leaves with its client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "ray", "vllm", "transformers", "deepspeed", "datasets", "numpy", "pyarrow", "matplotlib")
SLOW_TO_START = ("typer", "rich", "github", "huggingface_hub", "psutil", "oxrl_core.api", "oxrl_core.config.schema")


def modules_after(program: str) -> list[str]:
    program = f"import sys, mcp_server.server as s; {program}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.split()


def test_a_fresh_interpreter_loads_nothing_slow_before_it_answers_the_first_message() -> None:
    loaded = modules_after("s.build_server()")
    assert "mcp_server.guard" in loaded and "mcp_server.tools.operate" not in loaded
    assert [name for name in (*HEAVY, *SLOW_TO_START) if name in loaded] == []


def test_all_tools_together_load_nothing_heavy() -> None:
    loaded = modules_after("tools = s.Surface(s.read_policy({}), None).tools")
    assert "mcp_server.tools.operate" in loaded
    assert [name for name in HEAVY if name in loaded] == []


class RawServer:
    """A server process spoken to in lines of JSON."""

    def __init__(self, home: Path) -> None:
        environment = {**os.environ, "OXRL_HOME": str(home), "HF_TOKEN": "hf_" + "q" * 34}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def send(self, method: str, params: dict[str, Any] | None = None, number: int | None = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        if number is not None:
            message["id"] = number
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def ask(self, method: str, params: dict[str, Any] | None = None, number: int = 1) -> dict[str, Any]:
        self.send(method, params, number)
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            assert line, f"the server has ended: {self.process.stderr.read() if self.process.stderr else ''}"
            message = json.loads(line)
            if message.get("id") == number:
                return message


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RawServer]:
    raw = RawServer(tmp_path)
    yield raw
    raw.process.kill()
    raw.process.wait(timeout=20)
    for pipe in (raw.process.stdin, raw.process.stdout, raw.process.stderr):
        if pipe is not None:
            pipe.close()


def initialize(server: RawServer) -> dict[str, Any]:
    answer = server.ask(
        "initialize",
        {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "gemini-cli-mcp-client", "version": "0"},
        },
    )
    server.send("notifications/initialized")
    return answer["result"]


def test_the_older_protocol_is_served_line_by_line_and_end_of_file_ends_the_process(server: RawServer) -> None:
    hello = initialize(server)
    assert hello["serverInfo"]["name"] == "oxrl" and hello["protocolVersion"] == "2025-06-18"
    assert "launch_run" in hello["instructions"]
    listed = server.ask("tools/list", number=2)["result"]
    assert "nextCursor" not in listed, "some hosts read the first page only"
    assert len(listed["tools"]) >= 8
    result = server.ask(
        "tools/call", {"name": "get_run", "arguments": {"run_id": "nope", "wait_for_previous": True}}, 3
    )["result"]
    assert result["isError"] and json.loads(result["content"][0]["text"])["code"] == "NotFoundError"
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(timeout=10) == 0


def test_the_newer_protocol_is_served_without_a_handshake(server: RawServer) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "claude-code", "version": "2"},
    }
    found = server.ask("server/discover", {"_meta": meta})["result"]
    assert "2026-07-28" in found["supportedVersions"]
    result = server.ask("tools/call", {"name": "list_runs", "arguments": {}, "_meta": meta}, 2)["result"]
    assert result["structuredContent"] == json.loads(result["content"][0]["text"])
    assert result["structuredContent"]["total"] == 0


def test_the_command_explains_itself_instead_of_waiting_for_a_protocol() -> None:
    done = subprocess.run([sys.executable, "-m", "mcp_server", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "MCP client" in done.stdout
    done = subprocess.run([sys.executable, "-m", "mcp_server", "serve"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "unrecognized arguments: serve" in done.stderr
