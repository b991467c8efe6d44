"""A whole life through the tools alone, and what each answer costs: a tiny model, trained in its own process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from mcp_server.server import build_server

sys.path.insert(0, str(Path(__file__).parent))  # counting.py, beside this file

from counting import tokens

TINY = [
    "run.backend=local",
    "rollout.engine=transformers",
    "rollout.group_size=4",
    "train.prompts_per_step=8",
    "train.steps=4",
    "train.save_every=2",
    "train.eval_rows=8",
    "train.stop_at_reward=null",
    "report.sinks=[]",
]
MOST_BY_DEFAULT, MOST = 1_500, 8_000


@pytest.mark.engine
def test_a_run_lives_from_plan_to_evaluation_through_the_tools(home: Path) -> None:
    costs: dict[str, float] = {}

    async def life() -> None:
        async with Client(build_server()) as client:

            async def ask(tool: str, **arguments: Any) -> dict[str, Any]:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, (tool, result.content)
                costs[tool] = max(costs.get(tool, 0), tokens(result.content[0].text))  # pyright: ignore[reportAttributeAccessIssue]
                if tool == "plot_metrics":
                    assert result.content[1].type == "image" and result.content[1].mime_type == "image/png"
                return result.structured_content or {}

            async def ended(run_id: str) -> dict[str, Any]:
                view: dict[str, Any] = {"state": ""}
                with anyio.fail_after(300):
                    while view["state"] not in ("finished", "failed", "stopped", "lost"):
                        view = await ask("watch_run", run_id=run_id, wait_seconds=45)
                assert view["state"] == "finished", view
                return view

            await ask("check_environment")
            for kind in ("recipes", "algorithms", "datasets", "rewards", "models"):
                await ask("list_registry", kind=kind)
            assert (await ask("validate_config", config="demo", overrides=TINY))["ok"]
            plan = await ask("launch_run", config="demo", overrides=TINY, dry_run=True)
            bound = {"config": "demo", "overrides": TINY, "key": "life", "plan_hash": plan["plan_hash"]}
            run_id = (await ask("launch_run", **bound))["run_id"]
            assert (await ask("launch_run", **bound))["run_id"] == run_id
            view = await ended(run_id)
            assert view["step"] == 4 and view["next"] == "get_metrics"
            metrics = await ask("get_metrics", run_id=run_id)
            assert metrics["columns"][:2] == ["step", "reward/mean"] and metrics["total_rows"] == 5
            assert (await ask("plot_metrics", run_ids=[run_id], name="reward/mean"))["lines"][0]["colour"] == "blue"
            await ask("read_logs", run_id=run_id)
            rows = await ask("query_rollouts", run_id=run_id)
            assert rows["total_rows"] == 32 and len(rows["rows"]) == 8 and rows["next_cursor"] == "8"
            second = await ask("query_rollouts", run_id=run_id, cursor="8")
            assert second["rows"] != rows["rows"] and len(second["rows"]) == 8
            name = "/".join(str(cell) for cell in rows["rows"][0][:3])
            one = (await ask("query_rollouts", run_id=run_id, sample=name))["sample"]
            assert one["total_tokens"] == len(one["tokens"]) == 4 and one["token_columns"][:2] == ["token", "logprob"]
            await ask("diagnose_run", run_id=run_id)
            changed = ["train.steps=5", "train.lr=5e-4"]
            fork = await ask("rerun", run_id=run_id, mode="fork", step=2, overrides=changed)
            await ended(fork["run_id"])
            compared = await ask("compare_runs", run_ids=[run_id, fork["run_id"]])
            assert compared["differing"]["train.lr"] == {"A": "0.001", "B": "0.0005"}
            evaluation = await ask("evaluate_run", target=run_id, step=2, limit=8)
            assert (await ended(evaluation["run_id"]))["next"] == "get_run"
            result = (await ask("get_run", run_id=evaluation["run_id"]))["result"]
            assert result["of"] == run_id and result["step"] == 2 and result["prompts"] == 8
            assert 0 <= result["mean"] <= 1 and result["statuses"] == {"ok": 8}
            refused = await client.call_tool("rerun", {"run_id": run_id, "mode": "resume"})
            assert refused.is_error and "has finished" in refused.content[0].text  # pyright: ignore[reportAttributeAccessIssue]
            assert (await ask("list_runs"))["total"] == 3
            full = await client.call_tool("get_run", {"run_id": run_id, "detail": "full"})
            assert tokens(full.content[0].text) <= MOST  # pyright: ignore[reportAttributeAccessIssue]

    anyio.run(life)
    assert {tool: cost for tool, cost in costs.items() if cost > MOST_BY_DEFAULT} == {}, costs


def test_a_run_that_writes_much_is_told_in_few_words(start: Any) -> None:
    run = start(steps=60, seconds=0.0)

    async def read() -> dict[str, float]:
        async with Client(build_server()) as client:
            await client.call_tool("watch_run", {"run_id": run.run_id, "wait_seconds": 40})
            (run.logs / "driver.log").write_text("".join(f"{n} {'words of a log ' * 60}\n" for n in range(500)))
            for n in range(30):
                run.append_event("warning", "slow_step", f"{n} " + "a long message " * 80)
            run.append_metrics({"step": 61, **{f"metric/{n}": n / 7 for n in range(200)}})
            found: dict[str, float] = {}
            for tool in ("get_run", "read_logs", "get_metrics", "watch_run", "list_runs"):
                arguments = {} if tool == "list_runs" else {"run_id": run.run_id}
                text = (await client.call_tool(tool, arguments)).content[0].text  # pyright: ignore[reportAttributeAccessIssue]
                json.loads(text)
                found[tool] = tokens(text)
            many = {"run_id": run.run_id, "lines": 200}
            found["read_logs 200"] = tokens((await client.call_tool("read_logs", many)).content[0].text)  # pyright: ignore[reportAttributeAccessIssue]
            return found

    costs = anyio.run(read)
    assert costs.pop("read_logs 200") <= MOST
    assert {tool: cost for tool, cost in costs.items() if cost > MOST_BY_DEFAULT} == {}, costs
