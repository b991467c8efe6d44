"""A whole life through the tools alone, over stdio as a host speaks to the server, and what each answer costs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from mcp_server.server import build_server
from oxrl_core.agent_clients import server_command

sys.path.insert(0, str(Path(__file__).parent))  # counting.py and talking.py, beside this file

from counting import tokens
from talking import MOST, MOST_BY_DEFAULT, check_answer, links_of, text_of

MODEL = "miniature:chars"
# Two tokens do not suffice for three digits and an end: every answer is cut off, and nothing can be learned.
FAULT = "rollout.max_completion_tokens=2"
SMALL = ["train.steps=4", "train.save_every=2", "train.eval_rows=8", "report.sinks=[]", FAULT]
ENDED = ("finished", "failed", "stopped", "lost")
DEADLINE_SECONDS = 600


@pytest.mark.engine
def test_a_run_lives_from_the_model_to_the_report_through_the_tools_alone(home: Path) -> None:
    costs: dict[str, float] = {}
    command = server_command()
    server = StdioServerParameters(command=command[0], args=command[1:], env={**os.environ, "HF_HUB_OFFLINE": "1"})

    async def life() -> None:
        async with Client(server, read_timeout_seconds=DEADLINE_SECONDS) as client:

            async def ask(tool: str, **arguments: Any) -> dict[str, Any]:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, (tool, result.content)
                check_answer(result)
                costs[tool] = max(costs.get(tool, 0), tokens(text_of(result)))
                if tool in ("launch_run", "rerun", "evaluate_run"):
                    linked = bool((result.structured_content or {}).get("run_id"))
                    assert bool(links_of(result)) == linked
                if tool == "plot_metrics":
                    assert result.content[1].type == "image" and result.content[1].mime_type == "image/png"
                return result.structured_content or {}

            async def ended(run_id: str) -> dict[str, Any]:
                view: dict[str, Any] = {"state": "", "cursor": ""}
                with anyio.fail_after(DEADLINE_SECONDS):
                    while view["state"] not in ENDED:
                        view = await ask("watch_run", run_id=run_id, wait_seconds=45, cursor=view["cursor"])
                assert view["state"] == "finished", view
                return view

            await ask("check_environment")
            judged = await ask("inspect_model", model=MODEL, gpus=0)
            assert judged["verdict"] == "yes" and judged["next"].startswith("generate_config")
            made = await ask("generate_config", model=MODEL, gpus=0, overrides=SMALL)
            assert made["valid"] and made["next"].startswith("launch_run")
            config_id = made["config_id"]

            plan = await ask("launch_run", config=config_id, dry_run=True)
            assert plan["state"] == "planned" and plan["plan"]["needs"]["steps"] == 4
            bound = {"config": config_id, "key": "life", "plan_hash": plan["plan_hash"]}
            other = await client.call_tool("launch_run", {**bound, "overrides": ["run.seed=9"]})
            assert other.is_error and "plan" in text_of(other), "another plan than the one that was shown"
            run_id = (await ask("launch_run", **bound))["run_id"]
            assert (await ask("launch_run", **bound))["run_id"] == run_id
            view = await ended(run_id)
            assert view["step"] == 4 and view["next"] == "get_metrics"

            metrics = await ask("get_metrics", run_id=run_id)
            assert metrics["columns"][:2] == ["step", "reward/mean"] and metrics["total_rows"] == 5
            plotted = await ask("plot_metrics", run_ids=[run_id], name="reward/mean")
            assert plotted["lines"][0]["colour"] == "blue"
            await ask("read_logs", run_id=run_id)
            rows = await ask("query_rollouts", run_id=run_id)
            assert len(rows["rows"]) == 8 and rows["next_cursor"] == "8"
            second = await ask("query_rollouts", run_id=run_id, cursor="8")
            assert second["rows"] and second["rows"] != rows["rows"]
            name = "/".join(str(cell) for cell in rows["rows"][0][:3])
            one = (await ask("query_rollouts", run_id=run_id, sample=name))["sample"]
            assert one["total_tokens"] == len(one["tokens"]) <= 2 and one["token_columns"][:2] == ["token", "logprob"]

            found = await ask("diagnose_run", run_id=run_id)
            cause = next(one for one in found["causes"] if one["cause"] == "truncation")
            (fix,) = cause["overrides"]
            assert fix.startswith("rollout.max_completion_tokens=") and found["next"] == "rerun"
            fork = await ask("rerun", run_id=run_id, mode="fork", step=2, overrides=[fix])
            await ended(fork["run_id"])
            compared = await ask("compare_runs", run_ids=[run_id, fork["run_id"]])
            assert compared["differing"]["rollout.max_completion_tokens"] == {"A": "2", "B": fix.partition("=")[2]}
            last = {
                one: (await ask("get_metrics", run_id=one, names=["completion/truncated"]))["rows"][-1][1]
                for one in (run_id, fork["run_id"])
            }
            assert last[fork["run_id"]] < last[run_id], "with room to end, fewer completions are cut off"

            evaluation = await ask("evaluate_run", target=fork["run_id"], limit=8)
            assert (await ended(evaluation["run_id"]))["next"] == "get_run"
            result = (await ask("get_run", run_id=evaluation["run_id"]))["result"]
            assert result["of"] == fork["run_id"] and result["prompts"] == 8 and result["statuses"] == {"ok": 8}
            assert 0 <= result["mean"] <= 1
            report = Path((await ask("get_run", run_id=fork["run_id"], detail="report"))["report"])
            assert report.is_relative_to(home) and fork["run_id"] in report.read_text(encoding="utf-8")

            refused = await client.call_tool("rerun", {"run_id": run_id, "mode": "resume"})
            assert refused.is_error and "has finished" in text_of(refused)
            assert (await ask("list_runs"))["total"] == 3
            full = await client.call_tool("get_run", {"run_id": run_id, "detail": "full"})
            assert tokens(text_of(full)) <= MOST

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
