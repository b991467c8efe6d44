"""The wire itself: clients that do not read, sockets and files in place of pipes, lines that are torn or endless."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
SECONDS = 60.0
SERVER = [sys.executable, "-m", "mcp_server"]


def line_of(number: int, method: str, **parameters: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}).encode() + b"\n"


def read_answers(descriptor: int, count: int) -> dict[int, Any]:
    """The answers by number; every line must be whole JSON."""
    answers: dict[int, Any] = {}
    text, deadline = b"", time.monotonic() + SECONDS
    while len(answers) < count:
        assert select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0], f"only {sorted(answers)}"
        block = os.read(descriptor, 65_536)
        assert block, f"the server has ended after {sorted(answers)}"
        *lines, text = (text + block).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            answers[answer["id"]] = answer
    assert not text
    return answers


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_client_that_reads_late_misses_nothing_and_holds_up_nobody(tmp_path: Path, kind: str) -> None:
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "OXRL_HOME": str(tmp_path), "OXRL_MCP_CALLS_PER_SECOND": "0"}
    streams: Any = theirs if kind == "socket" else subprocess.PIPE
    server = subprocess.Popen(SERVER, stdin=streams, stdout=streams, stderr=subprocess.DEVNULL, env=environment)
    theirs.close()
    try:
        into = ours.fileno() if kind == "socket" else server.stdin.fileno()  # pyright: ignore[reportOptionalMemberAccess]
        out = ours.fileno() if kind == "socket" else server.stdout.fileno()  # pyright: ignore[reportOptionalMemberAccess]
        os.write(into, line_of(1, "initialize", **HELLO))
        assert read_answers(out, 1)[1]["result"]["serverInfo"]["name"] == "oxrl"
        # Some megabytes of answers, many times what a pipe holds, before one of them is read.
        for number in range(2, 42):
            os.write(into, line_of(number, "tools/list") if number % 2 else line_of(number, "ping"))
        audit = tmp_path / "audit.jsonl"
        os.write(into, line_of(42, "tools/call", name="list_runs", arguments={}))
        deadline = time.monotonic() + SECONDS
        while not audit.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert audit.exists(), "a call was not even handled, because other answers were not read"
        answers = read_answers(out, 41)
        assert set(answers) == set(range(2, 43))
        assert all(len(answers[number]["result"]["tools"]) > 20 for number in range(3, 42, 2))
        assert answers[42]["result"]["structuredContent"]["total"] == 0
    finally:
        ours.close()
        for pipe in (server.stdin, server.stdout):
            if pipe is not None:
                pipe.close()
        assert server.wait(timeout=SECONDS) == 0, "it leaves when its client has left"


def test_requests_in_a_file_are_answered_down_to_one_without_an_end_of_line(tmp_path: Path) -> None:
    file = tmp_path / "requests"
    file.write_bytes(line_of(1, "initialize", **HELLO) + line_of(2, "ping"))
    with file.open("rb") as requests:
        done = subprocess.run(
            SERVER, stdin=requests, capture_output=True, timeout=SECONDS, env={**os.environ, "OXRL_HOME": str(tmp_path)}
        )
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[0])["result"]["serverInfo"]["name"] == "oxrl"


CHATTY = """
import os, subprocess, sys
from mcp_server.catalogue import READ, ToolFacts
from mcp_server.pipes import serve_pipes
from mcp_server.server import build_server
from oxrl_core.runs.views import View

class Said(View):
    text: str

def chat(text: str) -> Said:
    '''Says it everywhere.'''
    print("on stdout")
    sys.stdout.flush()
    os.write(1, b"on descriptor 1")
    subprocess.run([sys.executable, "-c", "import sys; print('of a child', repr(sys.stdin.read()))"], check=True)
    return Said(text=text)

serve_pipes(build_server({"chat": ToolFacts(chat, "Chat", READ, "", False)}))
"""


def test_what_others_print_goes_to_stderr_and_odd_lines_are_read(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", CHATTY],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OXRL_HOME": str(tmp_path)},
    )  # fmt: skip
    assert server.stdin is not None and server.stdout is not None
    long = "long " * 100_000
    lines = [
        line_of(1, "initialize", **HELLO),
        b"\n \n",
        line_of(2, "tools/call", name="chat", arguments={"text": "?"}).replace(b"?", b"\xff\xfe"),
        line_of(3, "tools/call", name="chat", arguments={"text": long}).replace(b"\n", b"\r\n"),
        line_of(4, "ping"),
    ]
    try:
        text = b"".join(lines)
        for start in range(200):  # byte by byte at first
            server.stdin.write(text[start : start + 1])
            server.stdin.flush()
        server.stdin.write(text[200:])
        server.stdin.flush()
        answers = read_answers(server.stdout.fileno(), 4)
        assert answers[2]["result"]["structuredContent"]["text"] == "��"
        assert "TooLong" in answers[3]["result"]["content"][0]["text"]
        server.stdin.close()
        assert server.wait(timeout=SECONDS) == 0
        assert server.stderr is not None
        said = server.stderr.read().decode()
        assert "on stdout" in said and "on descriptor 1" in said and "of a child ''" in said
    finally:
        server.kill()
        server.wait(timeout=20)
        for pipe in (server.stdout, server.stderr):
            if pipe is not None:
                pipe.close()


def test_a_client_that_takes_no_answers_ends_the_server(tmp_path: Path) -> None:
    environment = {**os.environ, "OXRL_HOME": str(tmp_path)}
    server = subprocess.Popen(
        SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert server.stdin is not None and server.stdout is not None and server.stderr is not None
    try:
        server.stdout.close()
        server.stdin.write(line_of(1, "initialize", **HELLO))
        server.stdin.flush()  # and stdin stays open
        assert server.wait(timeout=SECONDS) == 0
        assert b"Traceback" not in server.stderr.read()
    finally:
        server.kill()
        server.stdin.close()
        server.stderr.close()
