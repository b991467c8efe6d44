"""Which trackers a run writes its metrics to, found out without importing one of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

# Set where nobody looks at a tracker afterwards.
UNWATCHED_VARIABLES = ("CI", "PYTEST_CURRENT_TEST")


def chosen_sinks(sinks: Sequence[str]) -> list[str]:
    """The trackers behind `report.sinks`, each once; `auto` is trackio where it is installed and somebody may look."""
    chosen: list[str] = []
    for name in sinks:
        if name == "auto":
            if find_spec("trackio") is None or any(os.environ.get(variable) for variable in UNWATCHED_VARIABLES):
                continue
            name = "trackio"
        if name not in chosen:
            chosen.append(name)
    return chosen


def missing_sinks(sinks: Sequence[str]) -> list[str]:
    """The trackers that are asked for by name and not installed."""
    return [name for name in dict.fromkeys(sinks) if name != "auto" and find_spec(name) is None]
