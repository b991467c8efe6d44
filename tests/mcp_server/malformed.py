"""Calls and lines that cannot be right, made from the tools' own schemas or of nothing, and what must come of each."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from mcp.types import CallToolResult, Tool

# Calls that start or end something are made malformed only: one argument is always wrong.
ACTING = {"launch_run", "rerun", "evaluate_run", "stop_run", "generate_config", "onboard_model", "steer_onboarding"}
ACTING |= {"draft_bug_report", "submit_bug_report", "score_completions", "check_environment", "watch_run"}
OUTSIDE = {"scout_models", "inspect_model"}  # they would ask the hub

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.just("\x00"), st.just("../" * 20)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
)


def _of_type(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    texts = st.one_of(st.text(max_size=40), st.sampled_from(["latest", "demo", "reverse3", "0", "all", "reward/mean"]))
    return {
        "string": texts,
        "integer": st.integers(schema.get("minimum", -5), schema.get("maximum", 10**6)),
        "number": st.floats(0, 1),
        "boolean": st.booleans(),
        "array": st.lists(texts, max_size=3),
    }[schema["type"]]


@st.composite
def calls(draw: st.DrawFn, tools: dict[str, Tool]) -> tuple[str, dict[str, Any]]:
    """A tool and arguments: right, nearly right, or nonsense."""
    name = draw(st.sampled_from(sorted(set(tools) - OUTSIDE)))
    properties: dict[str, Any] = tools[name].input_schema["properties"]
    arguments = {key: draw(_of_type(schema)) for key, schema in properties.items() if draw(st.booleans())}
    if name in ACTING or draw(st.booleans()):
        wrong = draw(st.sampled_from([*sorted(properties), "detial"]))
        arguments[wrong] = draw(ANYTHING) if wrong == "detial" else {"no": draw(ANYTHING)}
    return name, arguments


def check_answer(result: CallToolResult) -> None:
    """An answer, or an error that says what, where and what next; never an unforeseen one."""
    if not result.is_error:
        assert result.structured_content is not None
        return
    error = json.loads(result.content[0].text)  # pyright: ignore[reportAttributeAccessIssue]
    assert set(error) == {"code", "what", "where", "next"} and error["what"]
    assert error["code"] != "InternalError", error
    assert error["next"], error


HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "0"}}
LONGEST_WAIT = 60.0
METHODS = ["tools/call", "tools/list ", "initialize", "resources/read", "prompts/get", "completion/complete", "no/such"]
METHODS += [
    "notifications/cancelled",
    "notifications/progress",
    "subscriptions/listen",
    "server/discover",
    "",
    "\u0000",
]


def garbage(chance: random.Random) -> bytes:
    """A line that is no request, or nearly one: bytes, torn JSON, members of a wrong kind, too deep or too long."""
    odd: list[Any] = [None, True, -1, 2**70, 1.5, "", "x" * 300, "\ud800", [], {}, [[]], {"a": {"b": []}}, "../etc"]
    message: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": chance.choice([chance.randrange(10**6), str(chance.random())]),
        "method": chance.choice(METHODS),
        "params": {
            "name": chance.choice(["get_run", *odd]),
            "arguments": chance.choice(odd),
            "uri": chance.choice(odd),
        },
    }
    for name in chance.sample(sorted(message), chance.randrange(3)):
        message[name] = chance.choice(odd)
    for name in chance.sample(sorted(message), chance.choice([0, 0, 1])):
        del message[name]
    line = json.dumps(message).encode()
    kind = chance.randrange(10)
    if kind == 0:
        line = chance.randbytes(chance.randrange(200))
    elif kind == 1:
        line = line[: chance.randrange(len(line))]
    elif kind == 2:
        line = b"[" * chance.choice([3, 2000]) + line
    elif kind == 3:
        line = json.dumps([message, chance.choice(odd)]).encode()
    elif kind == 4 and chance.randrange(20) == 0:
        line = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"' + b"a" * 1_000_000 + b'"}}'
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


class Pipe:
    """A server process, spoken to in raw lines."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            env={**os.environ, "OXRL_HOME": str(home), "OXRL_MCP_CALLS_PER_SECOND": "0"},
        )  # fmt: skip
        self._rest = b""
        self._probes = 0
        self.feed([json.dumps({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": HELLO}).encode()])

    def feed(self, lines: list[bytes]) -> int:
        """How many lines the server has answered before it answered a plain `ping` after them; each must be JSON."""
        self._probes += 1
        name = f"probe {self._probes}"
        ping = json.dumps({"jsonrpc": "2.0", "id": name, "method": "ping"}).encode()
        assert self.process.stdin is not None
        for line in (*lines, ping):
            self.process.stdin.write(line + b"\n")
        count, deadline = 0, time.monotonic() + LONGEST_WAIT
        while True:
            answer = json.loads(self._line(deadline))
            if answer.get("id") == name:
                assert "result" in answer, answer
                return count
            assert answer["jsonrpc"] == "2.0" and (
                "method" in answer or "result" in answer or answer["error"]["message"]
            )
            count += 1

    def _line(self, deadline: float) -> bytes:
        assert self.process.stdout is not None
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no answer in {LONGEST_WAIT:g} s"
            read = os.read(self.process.stdout.fileno(), 1 << 20)
            assert read, "the server has ended"
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
