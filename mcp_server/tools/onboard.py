"""Making a model trainable: it goes on by itself, and asks where it cannot."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, Elicit, ElicitationResult, Resolve
from pydantic import Field

from mcp_server.budgets import (
    Approval,
    ask_if_costly,
    check_approved,
    check_budget,
    hours_on_all_gpus,
    room_for_a_run,
)
from mcp_server.catalogue import LAUNCH, WRITE, operation, tool
from mcp_server.policy import current_policy
from mcp_server.tools.arguments import LOG, Key, ModelName, Overrides, RunId
from oxrl_core.runs.views import RunView


def approve_onboarding(
    context: Context[Any, Any], model: str, max_hours: float, miniature_only: bool
) -> Approval | Elicit[Approval]:
    """Asks the person at the host about a costly onboarding."""

    def hours() -> float:
        return hours_on_all_gpus(_bounded(max_hours))

    if miniature_only:
        return Approval(approved=True)
    return ask_if_costly(context, hours, f"The onboarding of {model[:80]}")


def _bounded(max_hours: float) -> float:
    """The hours, or where none are named as many as this server allows."""
    limit, each = current_policy().max_gpu_hours, hours_on_all_gpus(1)
    if limit is None or not each:
        return max_hours
    if max_hours:
        check_budget(each * max_hours, f"a smaller max_hours: at most {limit / each:g} here")
    return max_hours or limit / each


@tool(
    title="Onboard a model",
    hints=LAUNCH,
    ask_less="call get_run",
    toolset="onboard",
    needs="swarm.onboard",
    link=LOG,
)
def onboard_model(
    model: ModelName,
    approval: Annotated[ElicitationResult[Approval], Resolve(approve_onboarding)],
    task: Annotated[str, Field(description="What for", max_length=200)] = "",
    max_attempts: Annotated[int, Field(description="Most repairs", ge=1, le=10)] = 3,
    max_hours: Annotated[float, Field(description="0: no limit", ge=0, le=1000)] = 0,
    miniature_only: Annotated[bool, Field(description="Only a tiny copy of it")] = False,
    key: Key = "",
) -> RunView:
    """Find out by real runs whether a model trains here, and repair what a configuration can. A run of kind onboard:
    watch_run follows it, steer_onboarding helps."""
    from mcp_server.confinement import check_path

    check_path("model", model, current_policy())
    hours = max_hours if miniature_only else _bounded(max_hours)
    check_approved(approval)
    with room_for_a_run():
        return operation("swarm.onboard", "onboard_model")(
            model,
            task=task,
            max_attempts=max_attempts,
            max_hours=hours,
            miniature_only=miniature_only,
            key=key,
        )


def approve_steering(context: Context[Any, Any], run_id: str, action: str) -> Approval | Elicit[Approval]:
    """Asks the person at the host about going on with a costly onboarding."""
    return ask_if_costly(context, lambda: _hours_left(run_id, action), f"Going on with the onboarding {run_id}")


def _hours_left(run_id: str, action: str) -> float:
    """The most GPU-hours that an onboarding may use from here on: each way on has all the time of its order."""
    from oxrl_core.runs import launch
    from oxrl_core.runs.rundir import oxrl_home

    run = launch.find_run(oxrl_home(), run_id)
    if action != "retry" or run.spec().get("kind") != "onboard":
        return 0.0
    order = operation("swarm.onboard.order", "read_order")(run)
    return 0.0 if order.miniature_only else hours_on_all_gpus(order.max_hours)


@tool(title="Steer an onboarding", hints=WRITE, ask_less="call get_run", toolset="onboard", needs="swarm.onboard")
def steer_onboarding(
    run_id: RunId,
    action: Annotated[Literal["retry", "give_up"], Field(description="retry: with the overrides")],
    approval: Annotated[ElicitationResult[Approval], Resolve(approve_steering)],
    overrides: Overrides = [],  # noqa: B006
    reason: Annotated[str, Field(description="Kept with the run", max_length=500)] = "",
) -> RunView:
    """Answer an onboarding that waits for help; diagnose_run has the evidence. Configuration only, never code."""
    steer = operation("swarm.onboard", "steer_onboarding")
    if action == "give_up":
        return steer(run_id, action, overrides=overrides, reason=reason)
    check_budget(_hours_left(run_id, action), "give it up, and onboard the model again with a smaller max_hours")
    check_approved(approval)
    with room_for_a_run():
        return steer(run_id, action, overrides=overrides, reason=reason)
