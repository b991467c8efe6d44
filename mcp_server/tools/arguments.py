"""The arguments that several tools share, each described once, and what they mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from oxrl_core.errors import NotFoundError

RunId = Annotated[
    str,
    Field(description="A run", min_length=1, max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
]
RunIds = Annotated[
    list[Annotated[str, Field(max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]],
    Field(description="Runs", min_length=1, max_length=10),
]
ConfigText = Annotated[
    str,
    Field(description="Recipe name, config_id, or whole YAML text", min_length=1, max_length=50_000),
]
Overrides = Annotated[
    list[Annotated[str, Field(max_length=2000)]],
    Field(description="e.g. ['train.lr=1e-6','run.seed=1']", max_length=64),
]
Key = Annotated[str, Field(description="Your word: the same key starts no second run", max_length=80)]
DryRun = Annotated[bool, Field(description="Only plan; gives plan_hash")]
PlanHash = Annotated[str, Field(description="Refuse if the plan has changed since", pattern=r"^[0-9a-f]{0,16}$")]
ModelName = Annotated[str, Field(description="Hub id, registry name, or a folder", min_length=1, max_length=300)]
LOG = "oxrl://runs/{run_id}/log"  # what an answer about a new run links to
CONFIG_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")


def known_config(config: str) -> str:
    """A recipe's name, or the text of a configuration; what could be a path of this machine is neither."""
    if "\n" in config or ": " in config or config.lstrip().startswith("{"):
        return config
    from oxrl_core.config.sources import list_recipes, main_names
    from oxrl_core.suggest import did_you_mean

    written = written_config(config)
    if written:
        return written
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


def written_config(config_id: str) -> str:
    """The text of a configuration that generate_config wrote; empty where there is none of that name."""
    if not CONFIG_ID.match(config_id):
        return ""
    folder = config_folder()
    for name in (config_id, f"{config_id}.yaml"):
        path = folder / name
        if path.is_file() and path.resolve().parent == folder.resolve():
            return path.read_text(encoding="utf-8") + "\n"
    return ""


def config_folder() -> Path:
    """Where generate_config writes."""
    from oxrl_core.runs.rundir import oxrl_home

    return oxrl_home() / "configs"


def cut(text: str, most: int) -> str:
    """The text, its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    half = (most - 12) // 2
    return f"{text[:half]} …{len(text) - 2 * half}… {text[-half:]}"
