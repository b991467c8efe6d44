"""Real GSM8K rows, as an agent would train on them: `oxrl-mcp` as a process of its own, spoken to by an MCP client, and
the two GSM8K recipes on Ray, DeepSpeed and vLLM with a miniature of the model that they name."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from oxrl_core.rollout.recorder import read_rollouts

ROOT = Path(__file__).parent.parent.parent
GSM8K = ROOT / "tests" / "fixtures" / "gsm8k"
LIMIT_SECONDS = 300.0
MINIATURE = [
    "model.path=miniature:qwen2.5-0.5b-instruct",
    f"data.train={GSM8K / 'train.jsonl'}",
    f"data.eval={GSM8K / 'test.jsonl'}",
    "run.backend=ray",
]

pytestmark = pytest.mark.engine


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The tool's structured answer; fails with the server's own words where it refuses."""
    result = await client.call_tool(tool, arguments, read_timeout_seconds=120)
    words = "\n".join(block.text for block in result.content if block.type == "text")
    assert not result.is_error, f"{tool}: {words}"
    assert result.structured_content == json.loads(words), "a host that reads only text sees the same"
    return dict(result.structured_content)


async def train(home: Path, recipe: str, overrides: list[str], names: list[str]) -> dict[str, dict[str, Any]]:
    """What the tools say about a run of the recipe, from launch to its end, and what they find afterwards."""
    server = StdioServerParameters(
        command=str(Path(sys.executable).parent / "oxrl-mcp"), env={**os.environ, "OXRL_HOME": str(home)}
    )
    async with Client(stdio_client(server), read_timeout_seconds=120) as client:
        launched = await ask(client, "launch_run", config=recipe, overrides=[*MINIATURE, *overrides])
        run_id, deadline = launched["run_id"], time.monotonic() + LIMIT_SECONDS
        view = launched
        while view["state"] not in ("finished", "failed", "stopped", "lost", "orphaned"):
            if time.monotonic() > deadline:
                await ask(client, "stop_run", run_id=run_id, reason="test deadline", force=True)
                pytest.fail(f"{recipe} was still {view['state']}, step {view.get('step')}, after {LIMIT_SECONDS} s")
            view = await ask(client, "watch_run", run_id=run_id, until="end", wait_seconds=30)
        logs = await ask(client, "read_logs", run_id=run_id, lines=80)
        assert view["state"] == "finished", f"{view.get('error')}\n" + "\n".join(logs["lines"])
        metrics = await ask(client, "get_metrics", run_id=run_id, names=names, max_points=200)
        return {"view": await ask(client, "get_run", run_id=run_id), "metrics": metrics, "logs": logs}


def column(metrics: dict[str, Any], name: str) -> list[float]:
    """The measured values of one metric, by step."""
    position = metrics["columns"].index(name)
    return [row[position] for row in metrics["rows"] if row[position] is not None]


def test_three_sgrpo_steps_on_gsm8k_keep_trainer_and_sampler_of_one_mind(tmp_path: Path) -> None:
    names = ["reward/mean", "reward/errors", "eval/reward", "loss", "grad_norm", "gap/max", "gap/mean"]
    names += ["sync/fingerprint", "policy_version", "completion/length", "data/dropped"]
    overrides = [
        "train.steps=3",
        "train.prompts_per_step=4",
        "train.eval_rows=8",
        "rollout.engine=vllm",
        "rollout.group_size=4",
        "rollout.max_completion_tokens=48",
        # Random weights answer nothing right, so all advantages are 0: the entropy bonus moves the weights instead,
        # and what is compared after each sync is a policy that really is a new one.
        "algorithm.entropy_coef=0.1",
        "train.lr=1e-2",
        "train.warmup_steps=0",
    ]
    seen = asyncio.run(train(tmp_path, "gsm8k-sgrpo", overrides, names))
    view, metrics = seen["view"], seen["metrics"]
    assert view.get("alerts", []) == []
    assert column(metrics, "step") == [0, 1, 2, 3]
    assert column(metrics, "policy_version") == [0, 1, 2, 3]
    assert len(column(metrics, "gap/max")) == 3 and max(column(metrics, "gap/max")) <= 1e-4
    assert max(column(metrics, "sync/fingerprint")) <= 1e-4
    assert min(column(metrics, "grad_norm")) > 0
    rewards = column(metrics, "reward/mean")
    assert len(rewards) == 3 and all(0 <= reward <= 1 for reward in rewards)
    assert set(column(metrics, "reward/errors")) == {0}
    assert set(column(metrics, "data/dropped")) == {0}, "every GSM8K question fits into the recipe's prompt limit"
    assert all(math.isfinite(value) for name in names for value in column(metrics, name))
    assert any("step 3/3" in line for line in seen["logs"]["lines"])

    first, last = (read_rollouts(Path(view["path"]) / "rollouts" / f"step-{step:08d}.parquet") for step in (1, 3))
    questions = [json.loads(line)["question"] for line in (GSM8K / "train.jsonl").read_text().splitlines()]
    assert len(first) == len(last) == 4 * 4
    assert all(any(question in row["prompt_text"] for question in questions) for row in [*first, *last])


def test_twenty_sft_steps_on_gsm8k_lower_the_loss_on_rows_seen_and_held_out(tmp_path: Path) -> None:
    names = ["loss", "eval/loss", "grad_norm", "lr", "data/dropped", "num_tokens"]
    overrides = [
        "train.steps=20",
        "train.rows_per_step=8",
        "train.eval_rows=16",
        "train.micro_batch_tokens=4096",
        "train.lr=3e-3",
        "train.warmup_steps=2",
        "model.gradient_checkpointing=false",
    ]
    seen = asyncio.run(train(tmp_path, "gsm8k-sft", overrides, names))
    metrics = seen["metrics"]
    # At this high rate the gradient of one step is truly several times that of the others; nothing else rings.
    alerts, norms = seen["view"].get("alerts", []), sorted(column(metrics, "grad_norm"))
    assert [alert["code"] for alert in alerts] in ([], ["gradient_spike"])
    assert not alerts or norms[-1] > 5 * norms[len(norms) // 2]
    losses, held_out = column(metrics, "loss"), column(metrics, "eval/loss")
    assert len(losses) == 20
    assert held_out[0] == pytest.approx(math.log(320), abs=0.3), "random weights guess among 320 tokens"
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.5
    assert held_out[-1] < held_out[0] - 0.5
    assert set(column(metrics, "data/dropped")) == {0}, "every solution fits into the recipe's limit"
