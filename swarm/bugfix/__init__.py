"""The Bugfixer: repairs the configuration of a run that failed, within a list of what may be changed.

gate.py      what may be changed, within which bounds, and what never
plan.py      what could be done about a failure
repair.py    the loop: start, diagnose, change one thing, keep it or take it back
bundle.py    the facts of a failure for an agent who decides where the rules do not
"""

from __future__ import annotations

from swarm.bugfix.bundle import Bundle, bugfix_bundle

__all__ = ["Bundle", "bugfix_bundle"]
