"""Streamable HTTP: nothing without the token, nothing for a page of another origin."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

TOKEN = "a-token-of-my-own-1234"
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "0"}},
}
HEADERS = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "mcp_server", "--http", str(port)],
        env={**os.environ, "OXRL_HOME": str(tmp_path), "OXRL_MCP_TOKEN": TOKEN},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert server.poll() is None
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/mcp"
    server.kill()
    server.wait(timeout=20)


def test_only_who_has_the_token_and_comes_from_here_is_served(address: str) -> None:
    with httpx2.Client(timeout=30) as client:
        served = client.post(address, json=HELLO, headers=HEADERS)
        assert served.status_code == 200 and '"oxrl"' in served.text
        for wrong in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            refused = client.post(address, json=HELLO, headers={**HEADERS, **wrong})
            assert refused.status_code == 401 and "oxrl" not in refused.text.lower().replace("oxrl_mcp_token", "")
        assert client.post(address, json=HELLO, headers={**HEADERS, "Host": "evil.example"}).status_code in (400, 421)
        for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example", "https://127.0.0.1:1"):
            assert client.post(address, json=HELLO, headers={**HEADERS, "Origin": origin}).status_code == 403, origin
        own = {"Origin": address.removesuffix("/mcp")}
        assert client.post(address, json=HELLO, headers={**HEADERS, **own}).status_code == 200
        for method in ("GET", "DELETE", "OPTIONS"):
            assert client.request(method, address).status_code == 401, "nothing is told without the token"


def test_a_call_over_http_is_answered_as_over_a_pipe(address: str) -> None:
    envelope = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "x", "version": "0"},
    }
    parameters = {"name": "list_runs", "arguments": {}, "_meta": envelope}
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": parameters}
    headers = {**HEADERS, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "list_runs"}
    with httpx2.Client(timeout=30) as client:
        answered = client.post(address, json=message, headers=headers)
    assert answered.status_code == 200 and '"total":0' in answered.text.replace("\\", ""), answered.text
    # Blanks around a value are no part of it. A client library would take them off, so this one is sent by hand.
    body = json.dumps(message).encode()
    lines = [*(f"{name}:  {value} \t " for name, value in headers.items()), f"Content-Length: {len(body)}"]
    host, _, port = address.removeprefix("http://").removesuffix("/mcp").partition(":")
    head = "\r\n".join(["POST /mcp HTTP/1.1", f"Host: {host}:{port}", "Content-Type: application/json", *lines])
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(head.encode() + b"\r\nConnection: close\r\n\r\n" + body)
        told = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert told.startswith(b"HTTP/1.1 200") and b"total" in told, told


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcp_server", "--http", "1"],
        env={**os.environ, "OXRL_HOME": str(tmp_path), "OXRL_MCP_TOKEN": "short"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "OXRL_MCP_TOKEN" in done.stderr
