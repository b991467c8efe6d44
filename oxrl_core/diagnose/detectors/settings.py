"""Keys that were set and do nothing."""

from __future__ import annotations

from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts


@detector("keys of the configuration without effect")
def idle(facts: RunFacts) -> Iterator[Seen]:
    config = facts.config
    if config is None:
        return
    from oxrl_core.config.rules import find_contradictions
    from oxrl_core.errors import OxrlError

    try:
        found = find_contradictions(config)
    except OxrlError:  # an own loss whose file is not here any more
        return
    if found:
        told = [seen_by(one.key, one.reason) for one in found[:4]]
        yield Seen("config_idle", 0.6, f"{found[0].key}: {found[0].reason}", "warning", told, next=found[0].fix)
