"""The Scout: what a model is and whether it can be trained here: no weight is read, none of its code is run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Loaded when first used: who only names a view needs none of the work behind it.
if TYPE_CHECKING:
    from swarm.scout.discovery import scout_models
    from swarm.scout.inspection import inspect_model
    from swarm.scout.views import ModelList, ModelReport

__all__ = ["ModelList", "ModelReport", "inspect_model", "scout_models"]
_MODULE_OF = {"ModelList": "views", "ModelReport": "views", "inspect_model": "inspection", "scout_models": "discovery"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
