"""Is this machine ready?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_server.catalogue import READ, tool
from oxrl_core.runs.views import EnvironmentReport


@tool(title="Check the environment", hints=READ, ask_less="detail='brief'", core=True, toolset="discover")
def check_environment(
    detail: Annotated[
        Literal["brief", "full", "deep"],
        Field(description="full: all packages; deep: prove each engine (minutes)"),
    ] = "brief",
) -> EnvironmentReport:
    """What this machine has and lacks for training: GPUs, memory, disk, engines, tokens set or not (never their
    values). What is not ok comes with its fix. Call it before the first launch."""
    from oxrl_core import api

    report = api.check_environment(deep=detail == "deep")
    if detail != "brief":
        return report
    told = [
        one for one in report.items if not one.ok or one.group in ("system", "gpu", "access") or one.name == "torch"
    ]
    return report.model_copy(update={"items": told})
