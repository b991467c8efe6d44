"""What can be run, and whether a configuration would."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_server.catalogue import READ, tool
from mcp_server.tools.arguments import ConfigText, Overrides
from oxrl_core.runs.views import ConfigReport, RegistryList


@tool(title="List the registry", hints=READ, ask_less="set query, or a smaller limit")
def list_registry(
    kind: Annotated[Literal["recipes", "algorithms", "datasets", "rewards", "models"], Field(description="What to list")],
    query: Annotated[str, Field(description="Keep names and summaries that contain this text", max_length=80)] = "",
    limit: Annotated[int, Field(description="Most items", ge=1, le=200)] = 50,
) -> RegistryList:
    """What oxRL ships, one line each: recipes (ready configurations), algorithms with their parameters, datasets, reward
    functions, models. The names go into validate_config and launch_run."""
    from oxrl_core import api

    return api.list_registry(kind, query=query, limit=limit)


@tool(title="Validate a configuration", hints=READ, ask_less="fix the first problems and validate again", core=True)
def validate_config(config: ConfigText, overrides: Overrides = []) -> ConfigReport:  # noqa: B006  (the SDK reads the default; nothing changes it)
    """Check a configuration without running it: keys, values, data, model, and what it needs of this machine (GPUs,
    memory, disk). Returns the resolved YAML and each problem with its next step. Costs seconds, loads nothing heavy."""
    from oxrl_core import api

    return api.validate_config(config, overrides)
