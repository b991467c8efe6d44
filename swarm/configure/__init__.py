"""Configurations for a model: rules as data, sizes from the memory plan, a reason beside every value."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Loaded when first used: who only names a view needs none of the work behind it.
if TYPE_CHECKING:
    from swarm.configure.generate import generate_config
    from swarm.configure.views import Choice, GeneratedConfig

__all__ = ["Choice", "GeneratedConfig", "generate_config"]
_MODULE_OF = {"Choice": "views", "GeneratedConfig": "views", "generate_config": "generate"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
