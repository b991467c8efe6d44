"""Runs: start, find, follow, stop."""

from __future__ import annotations

from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from mcp_server.catalogue import LAUNCH, READ, STOP, tool
from mcp_server.hosts import longest_wait
from mcp_server.tools.arguments import ConfigText, Overrides, RunId
from oxrl_core.runs.views import RunList, RunView


@tool(title="Launch a run", hints=LAUNCH, ask_less="call get_run with the run_id", core=True)
def launch_run(
    config: ConfigText,
    overrides: Overrides = [],  # noqa: B006
    key: Annotated[str, Field(description="A word of your own: the same key returns the same run, so a retry starts no second one", max_length=80)] = "",
    dry_run: Annotated[bool, Field(description="Only check and say what would start")] = False,
) -> RunView:
    """Start training in the background and return its run_id at once. Checked first as validate_config does. The run goes on
    if you disconnect. Follow it with watch_run; a time budget is the override run.max_hours=2."""
    from oxrl_core import api

    return api.launch_run(config, overrides, key=key, dry_run=dry_run)


@tool(title="List runs", hints=READ, ask_less="a smaller limit")
def list_runs(
    state: Annotated[
        Literal["any", "queued", "starting", "running", "finished", "failed", "stopped", "lost"], Field(description="Keep runs in this state")
    ] = "any",
    limit: Annotated[int, Field(description="Most runs", ge=1, le=50)] = 10,
) -> RunList:
    """Runs of this machine, newest first: id, name, state, step, last metrics. Runs outlive every server and client, so this
    finds what an earlier conversation launched."""
    from oxrl_core import api

    return api.list_runs(state="" if state == "any" else state, limit=limit)


@tool(title="Get a run", hints=READ, ask_less="call get_metrics with names", core=True)
def get_run(run_id: RunId) -> RunView:
    """A run's state now: phase, step, time left, newest metrics, alerts, error with its next step, folder. Answers at once;
    to wait for something, use watch_run."""
    from oxrl_core import api

    return api.get_run(run_id)


@tool(title="Stop a run", hints=STOP, ask_less="call get_run")
def stop_run(
    run_id: RunId,
    reason: Annotated[str, Field(description="Why, in a few words; kept with the run", max_length=300)] = "",
) -> RunView:
    """Stop a run: it saves a checkpoint and leaves; what stays after its grace period is killed. No process remains,
    checkpoints and metrics do. Stopping a run that has ended changes nothing."""
    from oxrl_core import api

    return api.stop_run(run_id, reason=reason)
