"""The Scout: what a model is and whether it can be trained here: no weight is read, none of its code is run."""

from __future__ import annotations

from swarm.scout.discovery import scout_models
from swarm.scout.inspection import inspect_model
from swarm.scout.views import ModelList, ModelReport

__all__ = ["ModelList", "ModelReport", "inspect_model", "scout_models"]
