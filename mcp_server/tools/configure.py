"""What can be run, and whether a configuration would."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_server.catalogue import READ, tool
from mcp_server.tools.arguments import ConfigText, Overrides, cut, known_config
from oxrl_core.runs.views import ConfigReport, View

Kind = Literal["recipes", "algorithms", "datasets", "rewards", "models"]
SUMMARY_CHARACTERS = 140


class RegistryItem(View):
    """One thing that a configuration can name."""

    name: str
    summary: str = ""
    takes: dict[str, str] = Field(default_factory=dict[str, str])
    """Parameters with their defaults."""


class RegistryList(View):
    """What oxRL ships of one kind."""

    kind: Kind
    items: list[RegistryItem]
    total: int
    """Items of this kind, whatever the query."""
    next_cursor: str = ""


@tool(title="List the registry", hints=READ, ask_less="set query, or a smaller limit", toolset="discover")
def list_registry(
    kind: Annotated[Kind, Field(description="What")],
    query: Annotated[str, Field(description="Text that names or summaries hold", max_length=80)] = "",
    limit: Annotated[int, Field(description="Most", ge=1, le=100)] = 20,
    cursor: Annotated[str, Field(description="next_cursor", pattern=r"^\d{0,6}$")] = "",
) -> RegistryList:
    """What oxRL ships: recipes (ready configurations), algorithms, datasets, rewards, models. Every algorithm has a
    recipe of its name; contributed ones are found by a query. Parameters are shown where few items are left."""
    items = _registry_items(kind)
    hidden = set[str]() if query else _contributed()
    kept = [item for item in items if query.lower() in f"{item.name} {item.summary}".lower()]
    kept = [item for item in kept if item.name not in hidden]
    start = int(cursor or 0)
    page = kept[start : start + limit]
    if len(page) > FEW:
        page = [one.model_copy(update={"takes": {}, "summary": cut(one.summary, SUMMARY_CHARACTERS)}) for one in page]
    rest = str(start + limit) if start + limit < len(kept) else ""
    return RegistryList(kind=kind, items=page, total=len(items), next_cursor=rest)


FEW = 5  # items that are shown with their parameters


def _contributed() -> set[str]:
    """Algorithms, and the recipes of their names, that are too many to be listed without being asked for."""
    from oxrl_core.config.sources import list_recipes

    return {recipe.name for recipe in list_recipes() if recipe.group}


def _registry_items(kind: Kind) -> list[RegistryItem]:
    """Every item of the kind, by name."""
    if kind == "recipes":
        from oxrl_core.config.sources import list_recipes

        return [RegistryItem(name=recipe.name, summary=recipe.summary) for recipe in list_recipes()]
    if kind == "models":
        return _models()
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


def _models() -> list[RegistryItem]:
    from oxrl_core.config.registry import entry_of_slug, model_slugs

    items: list[RegistryItem] = []
    for slug in model_slugs():
        entry = entry_of_slug(slug) or {}
        facts = {name: str(entry[name]) for name in ("hub", "parameters", "license", "modality") if name in entry}
        items.append(RegistryItem(name=slug, summary=str(entry.get("summary", "")), takes=facts))
    return items


@tool(title="Validate a configuration", hints=READ, ask_less="leave show_yaml off", core=True, toolset="config")
def validate_config(
    config: ConfigText,
    overrides: Overrides = [],  # noqa: B006  (the SDK reads the default and nothing changes it)
    show_yaml: Annotated[
        bool, Field(description="Also return the resolved configuration (about 1,500 tokens)")
    ] = False,
) -> ConfigReport:
    """Check a configuration without running it: keys, values, data, model, and what it needs of this machine. Each
    problem comes with its next step."""
    from mcp_server.confinement import check_config
    from oxrl_core import api

    source = known_config(config)
    check_config(source, overrides)
    report = api.validate_config(source, overrides)
    return report if show_yaml else report.model_copy(update={"config_yaml": ""})
