"""The arguments that several tools share, each described once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

RunId = Annotated[str, Field(description="run_id from launch_run or list_runs", min_length=1, max_length=120, pattern=r"^[A-Za-z0-9._-]+$")]
ConfigText = Annotated[
    str, Field(description="Name of a recipe (list_registry kind='recipes') or a whole configuration as YAML text", min_length=1, max_length=50_000)
]
Overrides = Annotated[
    list[str], Field(description="Changes laid over the configuration, each 'a.b=value', e.g. ['train.lr=1e-6','run.seed=1']", max_length=64)
]
