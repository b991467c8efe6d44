"""The arguments that several tools share, each described once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from oxrl_core.errors import NotFoundError

RunId = Annotated[
    str,
    Field(
        description="From launch_run or list_runs",
        min_length=1,
        max_length=120,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    ),
]
ConfigText = Annotated[
    str,
    Field(
        description="A recipe's name (list_registry) or a whole configuration as YAML text",
        min_length=1,
        max_length=50_000,
    ),
]
Overrides = Annotated[
    list[str],
    Field(description="Changes to the configuration: 'a.b=value', e.g. ['train.lr=1e-6','run.seed=1']", max_length=64),
]


def recipe_or_yaml(config: str) -> str:
    """The argument itself, once it is known to be a recipe's name or YAML text and not a path of this machine."""
    if "\n" in config or ": " in config or config.lstrip().startswith("{"):
        return config
    from oxrl_core.config.sources import list_recipes, main_names
    from oxrl_core.suggest import did_you_mean

    recipes = list_recipes()
    names = [recipe.name for recipe in recipes]
    if config in names:
        return config
    shown = config[:80]
    raise NotFoundError(
        f"there is no recipe {shown!r}.{did_you_mean(shown, names)}",
        "config",
        f"pass one of: {', '.join(main_names(recipes))} (list_registry with a query finds the others); or a whole "
        "configuration as YAML text (a path is not accepted here)",
    )
