"""The demo's way through a run, over a real session with the server: to the end, interrupted, too slow, and failed."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from rich.console import Console

from mcp_server.server import build_server
from oxrl_core import demo
from oxrl_core.errors import OxrlError, RunFailure
from oxrl_core.runs.rundir import RunDir
from oxrl_core.sparkline import BLOCKS

Start = Callable[..., RunDir]
Step = Callable[[demo.AgentClient, asyncio.Event], Awaitable[Any]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SECONDS_BETWEEN_LOOKS", 0.05)


def within_a_session(step: Step) -> Any:
    async def go() -> Any:
        async with Client(build_server()) as client:
            try:
                return await asyncio.wait_for(step(demo.AgentClient(client), asyncio.Event()), 60)
            except OxrlError as error:  # the session would wrap it
                return error

    result = asyncio.run(go())
    if isinstance(result, OxrlError):
        raise result
    return result


def plain(width: int = 80) -> tuple[Console, demo.PlainView]:
    console = Console(file=io.StringIO(), width=width)
    return console, demo.PlainView(console, BLOCKS)


def text_of(console: Console) -> str:
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_is_followed_to_its_end_and_reported_from_its_own_numbers(start: Start, home: Path) -> None:
    run = start(steps=30, seconds=0.02)
    console, view = plain()

    async def step(agent: demo.AgentClient, interrupted: asyncio.Event) -> Any:
        return await demo.follow(agent, {"run_id": run.run_id}, view, interrupted, 30)

    ended = within_a_session(step)
    assert (ended["state"], ended["step"]) == ("finished", 30)
    assert "step" in text_of(console) and "reward" in text_of(console)

    console, _ = plain()
    code = demo.report(demo.parse_arguments([]), console, ended, {}, home, 12.0)
    said = text_of(console)
    assert code == 0 and "It learned: held-out reward 0.100 -> 0.900" in said
    assert "30 steps in 12 s" in said and "DeepSpeed (ZeRO 2)" in said
    assert (run.path / "demo.png").read_bytes().startswith(b"\x89PNG")
    settings = said[said.index('{\n  "mcpServers"') :]
    first = json.JSONDecoder().raw_decode(settings)[0]
    assert first["mcpServers"]["oxrl"]["env"]["OXRL_HOME"] == str(home)


def test_an_interrupt_stops_the_run_through_the_server(start: Start) -> None:
    run = start(steps=1000, seconds=0.05)

    async def step(agent: demo.AgentClient, interrupted: asyncio.Event) -> Any:
        asyncio.get_running_loop().call_later(0.5, interrupted.set)
        return await demo.follow(agent, {"run_id": run.run_id}, plain()[1], interrupted, 30)

    ended = within_a_session(step)
    assert (ended["state"], ended["stop_reason"]) == ("stopped", "interrupted from the keyboard")


def test_a_run_that_takes_too_long_is_stopped_and_is_an_error(start: Start) -> None:
    run = start(steps=1000, seconds=0.05)

    async def step(agent: demo.AgentClient, interrupted: asyncio.Event) -> Any:
        return await demo.follow(agent, {"run_id": run.run_id}, plain()[1], interrupted, 0.5)

    with pytest.raises(RunFailure, match="--timeout"):
        within_a_session(step)
    assert run.status().state == "stopped"


def test_a_failed_run_is_told_with_its_cause_and_next_step(start: Start, home: Path) -> None:
    run = start(ends="fail")

    async def step(agent: demo.AgentClient, interrupted: asyncio.Event) -> Any:
        return await demo.follow(agent, {"run_id": run.run_id}, plain()[1], interrupted, 30)

    ended = within_a_session(step)
    with pytest.raises(RunFailure) as failure:
        demo.report(demo.parse_arguments([]), plain()[0], ended, {}, home, 1.0)
    assert (failure.value.what, failure.value.next_step) == ("the loss is not finite", "lower train.lr")


def test_a_refusal_of_a_tool_carries_the_servers_words(home: Path) -> None:
    async def step(agent: demo.AgentClient, interrupted: asyncio.Event) -> Any:
        return await agent.call("get_run", run_id="no-such-run")

    with pytest.raises(demo.ToolRefusal) as refusal:
        within_a_session(step)
    assert refusal.value.what == "there are no runs yet" and refusal.value.next_step
