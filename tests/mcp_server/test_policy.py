"""What an operator allows: fewer tools, no writing, budgets, and a person's word above a limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import CallToolResult, ElicitResult

from mcp_server import budgets
from mcp_server.policy import read_policy
from mcp_server.rates import CallRate
from mcp_server.server import build_server
from mcp_server.tools import onboard
from oxrl_core import api
from oxrl_core.errors import ConfigError, OxrlError
from oxrl_core.runs.rundir import RunDir

ERAS = ["auto", "legacy"]


def names(environment: dict[str, str]) -> set[str]:
    async def go() -> set[str]:
        async with Client(build_server(environment=environment)) as client:
            return {tool.name for tool in (await client.list_tools()).tools}

    return anyio.run(go)


def call(tool: str, arguments: dict[str, Any], era: str = "auto", person: str = "") -> CallToolResult:
    """The answer to a call; `person` is what somebody at the host answers, empty: the host cannot ask."""
    asked: list[str] = []

    async def answer(_context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=person, content={"approved": True} if person == "accept" else None)  # pyright: ignore[reportArgumentType]

    async def go() -> CallToolResult:
        options: dict[str, Any] = {"elicitation_callback": answer} if person else {}
        async with Client(build_server(), mode=era, **options) as client:  # pyright: ignore[reportArgumentType]
            return await client.call_tool(tool, arguments)

    result = anyio.run(go)
    if person:
        assert len(asked) == 1 and "GPU-hours" in asked[0]
    return result


def error_of(result: CallToolResult) -> dict[str, str]:
    assert result.is_error
    return json.loads(result.content[0].text)


def test_a_read_only_server_lists_no_tool_that_writes_and_refuses_one_that_is_called(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = names({"OXRL_MCP_READ_ONLY": "1"})
    assert {"get_run", "read_logs", "plot_metrics"} <= offered
    assert not offered & {"launch_run", "stop_run", "rerun", "evaluate_run", "generate_config", "submit_bug_report"}
    monkeypatch.setenv("OXRL_MCP_READ_ONLY", "1")
    error = error_of(call("launch_run", {"config": "demo"}))
    assert error["code"] == "NotOffered" and "read-only" in error["what"] and "OXRL_MCP_READ_ONLY" in error["next"]
    assert not (home / "runs").exists()


def test_toolsets_choose_tools_and_a_tool_of_another_set_says_which() -> None:
    observing = names({"OXRL_MCP_TOOLSETS": "observe"})
    assert {"get_run", "watch_run", "query_rollouts"} <= observing and not observing & {"launch_run", "list_registry"}
    both = names({"OXRL_MCP_TOOLSETS": "run, config"})
    assert {"launch_run", "validate_config"} <= both and "get_run" not in both
    assert names({"OXRL_MCP_TOOLSETS": "all"}) == names({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OXRL_MCP_TOOLSETS", "observ"),
        ("OXRL_MCP_READ_ONLY", "maybe"),
        ("OXRL_MCP_MAX_GPU_HOURS", "-1"),
        ("OXRL_MCP_MAX_GPU_HOURS", "nan"),
        ("OXRL_MCP_MAX_CONCURRENT_RUNS", "two"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_an_error_and_never_a_looser_one(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_policy({name: value})
    assert caught.value.where == name


def test_no_more_runs_at_a_time_than_allowed(start: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OXRL_MCP_MAX_CONCURRENT_RUNS", "1")
    active = start(steps=1000, seconds=0.1)
    error = error_of(call("launch_run", {"config": "demo", "key": "mine"}))
    assert active.run_id in error["what"] and "stop_run" in error["next"]
    assert api.list_runs().total == 1
    assert not call("launch_run", {"config": "demo", "dry_run": True}).is_error


def test_gpu_hours_are_bounded_whatever_the_configuration_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "gpus_of", lambda _config: 4)
    monkeypatch.setenv("OXRL_MCP_MAX_GPU_HOURS", "8")
    plan = call("launch_run", {"config": "demo", "dry_run": True}).structured_content or {}
    unbounded = api.launch_run("demo", dry_run=True)
    bounded = api.launch_run("demo", ["run.max_gpu_hours=8"], dry_run=True)
    assert plan["config_hash"] == bounded.config_hash != unbounded.config_hash
    within = call("launch_run", {"config": "demo", "overrides": ["run.max_hours=2"], "dry_run": True})
    assert not within.is_error, "4 GPUs for 2 hours are 8"
    error = error_of(call("launch_run", {"config": "demo", "overrides": ["run.max_hours=3"], "dry_run": True}))
    assert "12 GPU-hours" in error["what"] and "run.max_gpu_hours=8" in error["next"]


@pytest.mark.parametrize("era", ERAS)
def test_a_person_is_asked_about_a_costly_launch(home: Path, monkeypatch: pytest.MonkeyPatch, era: str) -> None:
    monkeypatch.setattr(budgets, "gpus_of", lambda _config: 1)
    monkeypatch.setenv("OXRL_MCP_ASK_ABOVE_GPU_HOURS", "2")
    # The hash is of no plan, so that a launch which was approved still starts nothing.
    costly = {"config": "demo", "overrides": ["run.max_hours=5"], "plan_hash": "0123456789abcdef"}
    assert error_of(call("launch_run", costly, era, "accept"))["where"] == "plan_hash"
    declined = error_of(call("launch_run", costly, era, "decline"))
    assert declined["where"] == "OXRL_MCP_ASK_ABOVE_GPU_HOURS" and "declined" in declined["what"]
    assert error_of(call("launch_run", costly, era, "cancel"))["where"] == "OXRL_MCP_ASK_ABOVE_GPU_HOURS"
    silent = error_of(call("launch_run", costly, era))
    assert "nobody has approved" in silent["what"] and "run.max_gpu_hours=2" in silent["next"]
    cheap = {**costly, "overrides": ["run.max_hours=1"]}
    assert error_of(call("launch_run", cheap, era))["where"] == "plan_hash", "not asked"


def test_a_launch_is_bound_to_the_plan_that_was_seen(home: Path) -> None:
    plan = call("launch_run", {"config": "demo", "dry_run": True}).structured_content or {}
    assert len(plan["plan_hash"]) == 16 and plan["plan"]["needs"]["steps"] == 250
    again = call("launch_run", {"config": "demo", "dry_run": True}).structured_content or {}
    assert again["plan_hash"] == plan["plan_hash"], "nothing has changed"
    changed = {"config": "demo", "overrides": ["run.seed=1"], "plan_hash": plan["plan_hash"]}
    error = error_of(call("launch_run", changed))
    assert error["where"] == "plan_hash" and "dry run" in error["next"]
    assert api.list_runs().total == 0


def test_the_plan_changes_with_the_data(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    row = json.dumps({"prompt": "1+1=", "completion": "2"}) + "\n"
    config = {
        "run": {"name": "own"},
        "model": {"path": "miniature:chars"},
        "data": {"train": str(data)},
        "algorithm": {"name": "sft"},
    }
    hashes: list[str] = []
    for count in (40, 41):
        data.write_text(row * count)
        hashes.append(api.launch_run(json.dumps(config), dry_run=True).plan_hash)
    assert hashes[0] != hashes[1]
    with pytest.raises(OxrlError, match="another one now"):
        api.launch_run(json.dumps(config), plan_hash=hashes[0])


def test_a_policy_file_says_what_variables_say_and_a_variable_stands_above_it(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("max_gpu_hours: 8\nread_only: true\ntoolsets: [observe, run]\nlaunches_per_hour: 0\n")
    policy = read_policy({"OXRL_MCP_POLICY": str(file), "OXRL_MCP_MAX_GPU_HOURS": "2"})
    assert policy.max_gpu_hours == 2 and policy.read_only and policy.toolsets == {"observe", "run"}
    assert policy.launches_per_hour is None and policy.calls_per_second == 50
    for text in ("max_gpu_hour: 8", "max_gpu_hours: many", "- a"):
        file.write_text(text)
        with pytest.raises(OxrlError):
            read_policy({"OXRL_MCP_POLICY": str(file)})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy({"OXRL_MCP_POLICY": str(tmp_path / "none.yaml")})


def test_a_caller_in_a_loop_is_told_to_wait_and_served_again_afterwards() -> None:
    now = [0.0]
    rate = CallRate(5, clock=lambda: now[0])
    assert [rate.seconds_to_wait() for _ in range(50)] == [0.0] * 50
    assert 0 < rate.seconds_to_wait() <= 0.2
    now[0] = 0.2
    assert rate.seconds_to_wait() == 0 and rate.seconds_to_wait() > 0
    assert CallRate(None).seconds_to_wait() == 0


def test_too_many_calls_are_answered_with_an_error_that_says_how_long_to_wait(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OXRL_MCP_CALLS_PER_SECOND", "0.1")  # one call in ten seconds

    async def go() -> list[CallToolResult]:
        async with Client(build_server()) as client:
            return [await client.call_tool("get_run", {"run_id": "nope"}) for _ in range(2)]

    first, second = (error_of(one) for one in anyio.run(go))
    assert first["code"] == "NotFoundError"
    assert second["code"] == "TooManyCalls" and "wait" in second["next"] and "watch_run" in second["next"]


def test_launches_of_an_hour_are_counted_over_all_servers_and_failed_ones_are_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OXRL_MCP_LAUNCHES_PER_HOUR", "2")
    with pytest.raises(KeyError), budgets.room_for_a_run():
        raise KeyError("nothing was started")
    for _ in range(2):
        with budgets.room_for_a_run():
            pass
    with pytest.raises(OxrlError, match="2 launches in the last hour") as caught, budgets.room_for_a_run():
        raise AssertionError("it is not entered")
    assert caught.value.where == "OXRL_MCP_LAUNCHES_PER_HOUR" and "wait 60 min" in caught.value.next_step
    (home / ".launches.json").write_text('{"times": [1.0, "x"]}')
    with budgets.room_for_a_run():
        pass


def test_what_has_no_budget_is_refused_above_the_limit_whichever_way_it_starts(
    start: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(steps=1)
    anyio.run(lambda: api.watch_run(run.run_id, until="end", wait_seconds=20))
    monkeypatch.setattr(budgets, "gpus_of", lambda _config: 1)
    monkeypatch.setattr(budgets, "hours_on_all_gpus", lambda hours: hours or float("inf"))
    monkeypatch.setattr(onboard, "hours_on_all_gpus", lambda hours: hours or float("inf"))
    monkeypatch.setenv("OXRL_MCP_MAX_GPU_HOURS", "1")
    order = {"model": "a/b", "max_hours": 3}
    parked = RunDir.create_from_parts(run.home, "onboard-a", "onboard: {}\n", {"kind": "onboard", "order": order})
    refused = {
        "steer": ("steer_onboarding", {"run_id": parked.run_id, "action": "retry"}),
        "resume": ("rerun", {"run_id": run.run_id, "mode": "resume"}),
        "onboard": ("onboard_model", {"model": "miniature:chars", "max_hours": 3}),
        "evaluate": ("evaluate_run", {"target": "miniature:chars", "dataset": "reverse3", "reward": "positions",
                                      "overrides": ["run.max_hours=9"]}),
    }  # fmt: skip
    for way, (tool, arguments) in refused.items():
        assert "GPU-hours" in error_of(call(tool, arguments))["what"], way
    monkeypatch.setenv("OXRL_MCP_MAX_GPU_HOURS", "")
    monkeypatch.setenv("OXRL_MCP_ASK_ABOVE_GPU_HOURS", "1")
    for way, (tool, arguments) in refused.items():
        assert error_of(call(tool, arguments))["where"] == "OXRL_MCP_ASK_ABOVE_GPU_HOURS", way
    given_up = error_of(call("steer_onboarding", {"run_id": parked.run_id, "action": "give_up"}))
    assert "GPU" not in given_up["what"], "who gives up needs nobody's word"
