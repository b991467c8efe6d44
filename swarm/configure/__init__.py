"""Configurations for a model: rules as data, sizes from the memory plan, a reason beside every value."""

from __future__ import annotations

from swarm.configure.generate import generate_config
from swarm.configure.views import Choice, GeneratedConfig

__all__ = ["Choice", "GeneratedConfig", "generate_config"]
