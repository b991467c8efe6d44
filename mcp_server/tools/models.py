"""Models: which there are, and what one is, without loading it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_server.catalogue import LOOK_OUTSIDE, WRITE, tool
from mcp_server.tools.arguments import ModelName, Overrides
from swarm.configure.views import GeneratedConfig
from swarm.scout.views import ModelList, ModelReport

Gpus = Annotated[int, Field(description="-1: this machine's", ge=-1, le=1024)]
GpuMemory = Annotated[float, Field(description="0: this machine's", ge=0, le=1000)]
MOST_PLANS = 3


@tool(title="Scout models", hints=LOOK_OUTSIDE, ask_less="a smaller limit", toolset="discover", needs="swarm.scout")
def scout_models(
    query: Annotated[str, Field(description="Words of its name", max_length=100)] = "",
    task: Annotated[str, Field(description="e.g. text-generation", max_length=60)] = "",
    max_params_b: Annotated[float, Field(description="Billions; 0: any", ge=0, le=10_000)] = 0,
    license: Annotated[str, Field(description="e.g. apache-2.0", max_length=40)] = "",
    limit: Annotated[int, Field(description="Most", ge=1, le=50)] = 15,
    cursor: Annotated[str, Field(description="next_cursor", max_length=60)] = "",
) -> ModelList:
    """Find models that could be trained: the registry's first, then the hub's by downloads. Facts only, never the text
    of a model card."""
    from swarm.scout import scout_models as scout

    found = scout(query, task=task, max_params_b=max_params_b, license=license, limit=limit, cursor=cursor)
    return found if found.items else found.model_copy(update={"next": "scout_models with a wider search"})


@tool(title="Inspect a model", hints=LOOK_OUTSIDE, ask_less="detail='brief'", toolset="discover", needs="swarm.scout")
def inspect_model(
    model: ModelName,
    gpus: Gpus = -1,
    gpu_memory_gib: GpuMemory = 0,
    detail: Annotated[Literal["brief", "full"], Field(description="full: layers, all plans")] = "brief",
) -> ModelReport:
    """What a model is and whether it can be trained here: architecture, size, chat template, licence, risks, memory
    plan, verdict with reasons. No weight is read, no code of it is run."""
    from mcp_server.confinement import check_path
    from mcp_server.policy import current_policy
    from swarm.scout import inspect_model as inspect

    check_path("model", model, current_policy())
    report = inspect(model, gpus=gpus, gpu_memory_gib=gpu_memory_gib, detail=detail)
    if report.verdict == "no":
        report = report.model_copy(update={"next": "scout_models"})
    if detail == "full":
        return report
    fitting = [plan for plan in report.memory if plan.fits] or report.memory
    return report.model_copy(update={"memory": fitting[:1], "tags": [], "proposals": report.proposals[:MOST_PLANS]})


@tool(
    title="Generate a configuration",
    hints=WRITE,
    ask_less="leave show_yaml off",
    toolset="config",
    needs="swarm.configure",
    link="oxrl://configs/{config_id}",
)
def generate_config(
    model: ModelName,
    algorithm: Annotated[str, Field(description="Registry name", max_length=80)] = "sgrpo",
    dataset: Annotated[str, Field(description="Registry name or file", max_length=300)] = "",
    reward: Annotated[str, Field(description="Registry name", max_length=200)] = "",
    gpus: Gpus = -1,
    gpu_memory_gib: GpuMemory = 0,
    overrides: Overrides = [],  # noqa: B006
    show_yaml: Annotated[bool, Field(description="Also the YAML")] = False,
) -> GeneratedConfig:
    """Write a configuration that fits model, algorithm and GPUs, with a reason for each value. Its config_id goes to
    validate_config and launch_run."""
    from mcp_server.confinement import check_path
    from mcp_server.policy import current_policy
    from swarm.configure import generate_config as generate

    for key, name in (("model", model), ("dataset", dataset)):
        if name:
            check_path(key, name, current_policy())
    made = generate(model, algorithm, dataset, reward, gpus, gpu_memory_gib, overrides)
    then = f"launch_run(config='{made.config_id}', dry_run=true)"
    changes = {"next": then if made.valid else f"validate_config(config='{made.config_id}')"}
    return made.model_copy(update=changes if show_yaml else {**changes, "config_yaml": ""})
