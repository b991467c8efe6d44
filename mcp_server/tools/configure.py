"""What can be run, and whether a configuration would."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_server.catalogue import READ, tool
from mcp_server.tools.arguments import ConfigText, Overrides, recipe_or_yaml
from oxrl_core.runs.views import ConfigReport, View

Kind = Literal["recipes", "algorithms", "datasets", "rewards"]


class RegistryItem(View):
    """One thing that a configuration can name."""

    name: str
    summary: str = ""
    takes: dict[str, str] = {}  # noqa: RUF012  (pydantic copies defaults)
    """Parameters with their defaults."""


class RegistryList(View):
    """What oxRL ships of one kind."""

    kind: Kind
    items: list[RegistryItem]
    total: int
    """Items of this kind, whatever the query."""


@tool(title="List the registry", hints=READ, ask_less="set query, or a smaller limit")
def list_registry(
    kind: Annotated[Kind, Field(description="What to list")],
    query: Annotated[str, Field(description="Keep names and summaries that hold this text", max_length=80)] = "",
    limit: Annotated[int, Field(description="Most items", ge=1, le=200)] = 50,
) -> RegistryList:
    """What oxRL ships, one line each: recipes (ready configurations), algorithms with their parameters, datasets,
    reward functions. The names are used in configurations and overrides. Every algorithm has a recipe of its name; the
    less common ones (contrib) are listed where a query finds them."""
    items = _registry_items(kind)
    hidden = set[str]() if query else _contributed()
    kept = [item for item in items if query.lower() in f"{item.name} {item.summary}".lower()]
    kept = [item for item in kept if item.name not in hidden]
    return RegistryList(kind=kind, items=kept[:limit], total=len(items))


def _contributed() -> set[str]:
    """Algorithms, and the recipes of their names, that are too many to be listed without being asked for."""
    from oxrl_core.config.sources import list_recipes

    return {recipe.name for recipe in list_recipes() if recipe.group}


def _registry_items(kind: Kind) -> list[RegistryItem]:
    """Every item of the kind, by name."""
    if kind == "recipes":
        from oxrl_core.config.sources import list_recipes

        return [RegistryItem(name=recipe.name, summary=recipe.summary) for recipe in list_recipes()]
    if kind == "algorithms":
        from oxrl_core.algorithms.base import all_algorithms

        return [
            RegistryItem(
                name=one.name,
                summary=f"{one.kind}: {one.summary}",
                takes={key: str(value) for key, value in one.params.items()},
            )
            for _, one in sorted(all_algorithms().items())
        ]
    if kind == "datasets":
        from oxrl_core.datasets.base import all_datasets

        return [
            RegistryItem(
                name=one.name,
                summary=f"{one.summary} (splits: {', '.join(one.splits)})",
                takes=one.parameters.shown(),
            )
            for _, one in sorted(all_datasets().items())
        ]
    from oxrl_core.rewards.base import all_rewards

    return [
        RegistryItem(name=one.name, summary=one.summary, takes=one.parameters.shown())
        for _, one in sorted(all_rewards().items())
    ]


@tool(title="Validate a configuration", hints=READ, ask_less="leave show_yaml off", core=True)
def validate_config(
    config: ConfigText,
    overrides: Overrides = [],  # noqa: B006  (the SDK reads the default and nothing changes it)
    show_yaml: Annotated[
        bool, Field(description="Also return the whole resolved configuration (about 1,500 tokens)")
    ] = False,
) -> ConfigReport:
    """Check a configuration without running it: keys, values, data, model, and what it needs of this machine (GPUs,
    memory, disk). Each problem comes with its next step. Takes seconds, loads nothing heavy."""
    from oxrl_core import api

    report = api.validate_config(recipe_or_yaml(config), overrides)
    return report if show_yaml else report.model_copy(update={"config_yaml": ""})
