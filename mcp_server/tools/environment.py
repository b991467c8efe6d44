"""Is this machine ready?"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mcp_server.catalogue import READ, tool
from oxrl_core.runs.views import EnvironmentReport


@tool(title="Check the environment", hints=READ, ask_less="call it without deep", core=True)
def check_environment(
    deep: Annotated[
        bool, Field(description="Also prove Ray, DeepSpeed and vLLM by one real step each (some minutes)")
    ] = False,
) -> EnvironmentReport:
    """What this machine has and lacks for training: GPUs, memory, disk, package versions, tokens set or not (never
    their values). What is not ok comes with its fix. Call it before the first launch."""
    from oxrl_core import api

    return api.check_environment(deep=deep)
