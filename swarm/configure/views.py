"""What the configurator answers with."""

from __future__ import annotations

from pydantic import Field

from oxrl_core.config.requirements import Problem
from oxrl_core.runs.views import View
from swarm.scout.views import MemoryView


class Choice(View):
    """One value that was chosen, and why."""

    key: str
    value: str
    """As it stands in the YAML."""
    reason: str


class GeneratedConfig(View):
    """A configuration that was written for a model."""

    config_id: str
    """Name of its file below <home>/configs."""
    path: str
    model: str
    algorithm: str
    strategy: str
    valid: bool
    """Whether nothing stands in the way of launching it on the machine that it was written for."""
    problems: list[Problem] = Field(default_factory=list[Problem])
    why: list[Choice] = Field(default_factory=list[Choice])
    notes: list[str] = Field(default_factory=list[str])
    memory: MemoryView
    config_yaml: str = ""
    next: str = ""
