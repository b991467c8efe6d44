"""Runs: start, find, follow, stop."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from mcp_server.catalogue import LAUNCH, READ, STOP, tool
from mcp_server.hosts import longest_wait
from mcp_server.tools.arguments import ConfigText, Overrides, RunId, recipe_or_yaml
from oxrl_core.runs.views import LaunchResult, RunList, RunView

SECONDS_BETWEEN_REPORTS = 2.0


@tool(title="Launch a run", hints=LAUNCH, ask_less="call get_run with the run_id", core=True)
def launch_run(
    config: ConfigText,
    overrides: Overrides = [],  # noqa: B006  (the SDK reads the default and nothing changes it)
    key: Annotated[
        str,
        Field(
            description="Your own word: the same key gives the same run, so a retry starts no second one", max_length=80
        ),
    ] = "",
    dry_run: Annotated[bool, Field(description="Only check, and say what would start")] = False,
) -> LaunchResult:
    """Start training in the background and return its run_id at once, after the checks of validate_config. The run goes
    on if you disconnect; follow it with watch_run. A time budget: the override run.max_hours=2."""
    from oxrl_core import api

    launched = api.launch_run(recipe_or_yaml(config), overrides, key=key, dry_run=dry_run)
    if launched.plan is not None:
        launched.plan = launched.plan.model_copy(update={"config_yaml": ""})
    return launched


@tool(title="List runs", hints=READ, ask_less="a smaller limit")
def list_runs(
    state: Annotated[
        Literal[
            "any",
            "active",
            "queued",
            "starting",
            "running",
            "stalled",
            "finished",
            "failed",
            "stopped",
            "lost",
            "orphaned",
        ],
        Field(description="Keep runs in this state; active: those that have not ended"),
    ] = "any",
    limit: Annotated[int, Field(description="Most runs", ge=1, le=50)] = 10,
    cursor: Annotated[str, Field(description="next_cursor of the last answer, for older runs", max_length=120)] = "",
) -> RunList:
    """Runs of this machine, newest first, with state, step and newest metrics. Runs outlive servers and clients: this
    finds what an earlier conversation launched."""
    from oxrl_core import api

    return api.list_runs(state="" if state == "any" else state, limit=limit, cursor=cursor)


@tool(title="Get a run", hints=READ, ask_less="call get_metrics with names", core=True)
def get_run(run_id: RunId) -> RunView:
    """A run's state now: phase, step, seconds left, newest metrics, alerts, error with its next step, folder. Answers
    at once; to wait for something use watch_run."""
    from oxrl_core import api

    return api.get_run(run_id)


@tool(title="Watch a run", hints=READ, ask_less="call get_metrics with names", core=True)
async def watch_run(
    context: Context[Any, Any],
    run_id: RunId,
    until: Annotated[
        Literal["progress", "end"], Field(description="progress: also return at a new step or phase")
    ] = "end",
    wait_seconds: Annotated[
        float,
        Field(
            description="Longest wait; cut to what this host allows (45 if unknown), see waited_seconds", ge=0, le=3600
        ),
    ] = 45,
    cursor: Annotated[
        str, Field(description="cursor of the last view, so that nothing is missed", max_length=300)
    ] = "",
) -> RunView:
    """Wait until a run ends, raises an alert or (until='progress') moves; returns the view of get_run. Not an error
    when nothing happened: call again with its cursor. For long runs take until='end' and a long wait."""
    from oxrl_core import api

    parameters = context.session.client_params
    seconds = min(wait_seconds, longest_wait(parameters.client_info.name if parameters is not None else ""))
    reporter = asyncio.ensure_future(_report_steps(context, run_id, seconds))
    try:
        return await api.watch_run(run_id, until=until, wait_seconds=seconds, cursor=cursor)
    finally:
        reporter.cancel()
        await asyncio.gather(reporter, return_exceptions=True)


async def _report_steps(context: Context[Any, Any], run_id: str, seconds: float) -> None:
    """Tells the host every two seconds where the run is: some hosts show it, and some end calls that are silent."""
    from oxrl_core import api

    began = time.monotonic()
    while True:
        await asyncio.sleep(SECONDS_BETWEEN_REPORTS)
        view = await asyncio.to_thread(api.get_run, run_id)
        reward = view.metrics.get("reward/mean")
        message = f"{view.state}: step {view.step}/{view.total_steps or '?'}" + (
            f", reward {reward:.3f}" if reward is not None else ""
        )
        # The wait and not the step is what must grow with every notification.
        await context.report_progress(time.monotonic() - began, seconds, message)


@tool(title="Stop a run", hints=STOP, ask_less="call get_run")
def stop_run(
    run_id: RunId,
    reason: Annotated[str, Field(description="Why, in a few words; kept with the run", max_length=300)] = "",
    force: Annotated[bool, Field(description="Give it no time to save a checkpoint")] = False,
) -> RunView:
    """Stop a run for good: it saves a checkpoint and leaves; what is left after its grace period is killed. Metrics and
    checkpoints stay. Stopping a run that has ended changes nothing."""
    from oxrl_core import api

    return api.stop_run(run_id, reason=reason, force=force)
