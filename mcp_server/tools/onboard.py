"""Making a model trainable: it goes on by itself, and asks where it cannot."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_server.budgets import room_for_a_run
from mcp_server.catalogue import LAUNCH, WRITE, operation, tool
from mcp_server.tools.arguments import Key, ModelName, Overrides, RunId
from oxrl_core.runs.views import RunView


@tool(title="Onboard a model", hints=LAUNCH, ask_less="call get_run", toolset="onboard", needs="swarm.onboard")
def onboard_model(
    model: ModelName,
    task: Annotated[str, Field(description="What for", max_length=200)] = "",
    max_attempts: Annotated[int, Field(description="Most repairs", ge=1, le=10)] = 3,
    max_hours: Annotated[float, Field(description="0: no limit", ge=0, le=1000)] = 0,
    miniature_only: Annotated[bool, Field(description="Only a tiny copy of it")] = False,
    key: Key = "",
) -> RunView:
    """Find out by real runs whether a model trains here, and repair what a configuration can. A run of kind onboard:
    watch_run follows it, steer_onboarding helps."""
    from mcp_server.confinement import check_path
    from mcp_server.policy import current_policy

    check_path("model", model, current_policy())
    with room_for_a_run():
        return operation("swarm.onboard", "onboard_model")(
            model,
            task=task,
            max_attempts=max_attempts,
            max_hours=max_hours,
            miniature_only=miniature_only,
            key=key,
        )


@tool(title="Steer an onboarding", hints=WRITE, ask_less="call get_run", toolset="onboard", needs="swarm.onboard")
def steer_onboarding(
    run_id: RunId,
    action: Annotated[Literal["retry", "give_up"], Field(description="retry: with the overrides")],
    overrides: Overrides = [],  # noqa: B006
    reason: Annotated[str, Field(description="Kept with the run", max_length=500)] = "",
) -> RunView:
    """Answer an onboarding that waits for help; diagnose_run has the evidence. Configuration only, never code."""
    return operation("swarm.onboard", "steer_onboarding")(run_id, action, overrides=overrides, reason=reason)
