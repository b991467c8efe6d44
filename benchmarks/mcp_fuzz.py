"""Malformed calls and raw garbage for the MCP server: `python benchmarks/mcp_fuzz.py [COUNT] [SEED]`, 10,000 of each.

calls     to a server in this process: every answer must be one, or an error with a next step, within 30 s
garbage   lines on the stdin of a server process: bytes, torn JSON, members of the wrong kind, far too deep or too long;
          it must go on, answer in JSON only, and answer a plain request after every fifty lines

Ends with exit code 1 at the first that is not so.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import anyio
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from mcp import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "mcp_server"))

from malformed import Pipe, calls, check_answer, garbage

from mcp_server.server import build_server

AT_ONCE = 50  # calls over one connection


def main() -> int:
    """The exit code: 0 where every call was answered."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    start = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    counted = {"calls": 0, "errors": 0}
    slowest = 0.0
    with tempfile.TemporaryDirectory() as home:
        os.environ["OXRL_HOME"] = home

        async def listed() -> dict[str, object]:
            async with Client(build_server()) as client:
                return {tool.name: tool for tool in (await client.list_tools()).tools}

        tools = anyio.run(listed)

        @seed(start)
        @settings(
            max_examples=max(1, count // AT_ONCE),
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate],
        )
        @given(st.lists(calls(tools), min_size=AT_ONCE, max_size=AT_ONCE))
        def some(drawn: list[tuple[str, dict[str, object]]]) -> None:
            async def go() -> None:
                nonlocal slowest
                async with Client(build_server()) as client:
                    for name, arguments in drawn:
                        began = time.monotonic()
                        with anyio.fail_after(30):
                            result = await client.call_tool(name, json.loads(json.dumps(arguments, default=str)))
                        slowest = max(slowest, time.monotonic() - began)
                        check_answer(result)
                        counted["calls"] += 1
                        counted["errors"] += result.is_error is True

            anyio.run(go)

        some()
    print(
        f"{counted['calls']} calls, {counted['errors']} answered with an error, slowest {slowest:.2f} s, seed {start}"
    )
    feed_garbage(count, start)
    return 0


def feed_garbage(count: int, start: int) -> None:
    """Garbage on the stdin of one server process; raises where it ends, hangs or answers nonsense."""
    chance, answered, slowest = random.Random(start), 0, 0.0
    with tempfile.TemporaryDirectory() as home:
        server = Pipe(Path(home))
        try:
            for _ in range(max(1, count // AT_ONCE)):
                began = time.monotonic()
                answered += server.feed([garbage(chance) for _ in range(AT_ONCE)])
                slowest = max(slowest, time.monotonic() - began)
        finally:
            server.close()
    print(f"{count} lines of garbage, {answered} answered, slowest {AT_ONCE} in {slowest:.2f} s, seed {start}")


if __name__ == "__main__":
    sys.exit(main())
