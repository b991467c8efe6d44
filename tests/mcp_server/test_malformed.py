"""Some hundred calls that cannot be right, and raw lines that are no protocol; ten thousand: benchmarks/mcp_fuzz.py."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.types import Tool

from mcp_server.server import build_server

sys.path.insert(0, str(Path(__file__).parent))  # malformed.py, beside this file

from malformed import HELLO, Pipe, calls, check_answer, garbage

NESTED = '{"run_id":' + "[" * 50 + "]" * 50 + "}"


def test_every_malformed_call_is_answered_with_a_next_step(home: Path) -> None:
    home.mkdir(parents=True)

    async def listed() -> dict[str, Tool]:
        async with Client(build_server()) as client:
            return {tool.name: tool for tool in (await client.list_tools()).tools}

    tools = anyio.run(listed)

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(calls(tools), min_size=5, max_size=5))
    def some(drawn: list[tuple[str, dict[str, Any]]]) -> None:
        async def go() -> None:
            async with Client(build_server()) as client:
                for name, arguments in drawn:
                    with anyio.fail_after(30):
                        check_answer(await client.call_tool(name, json.loads(json.dumps(arguments, default=str))))

        anyio.run(go)

    some()


@pytest.mark.parametrize("arguments", ['"text"', "[1]", "7", "null", '{"run_id":{"a":[]}}', NESTED])
def test_arguments_of_another_kind_and_lines_that_are_no_json_end_nothing(tmp_path: Path, arguments: str) -> None:
    import os

    call = f'{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"get_run","arguments":{arguments}}}}}'
    lines = [
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}),
        '{"jsonrpc":"2.0","method":"notifications/initialized","params":{}}',
        "this is no JSON \x00\x01",
        '{"jsonrpc":"2.0"}',
        call,
        '{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{}}',
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "mcp_server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OXRL_HOME": str(tmp_path)},
    )  # fmt: skip
    assert server.stdin is not None and server.stdout is not None
    answers: dict[int, Any] = {}
    try:
        server.stdin.write("\n".join(lines) + "\n")
        server.stdin.flush()
        while not {1, 2, 3} <= set(answers):
            line = server.stdout.readline()
            assert line, "the server has ended"
            message = json.loads(line)
            if message.get("id") is not None:
                answers[message["id"]] = message
    finally:
        server.kill()
        server.wait(timeout=20)
    assert answers[3]["result"]["tools"]
    told = answers[2]
    assert "error" in told or told["result"]["isError"]


def test_a_server_that_is_fed_garbage_goes_on_answering(tmp_path: Path) -> None:
    chance, server = random.Random(5), Pipe(tmp_path)
    try:
        answered = sum(server.feed([garbage(chance) for _ in range(20)]) for _ in range(15))
    finally:
        server.close()
    assert answered > 20, "what has an id and a method is answered, however wrong it is"
