"""The registry held against the world: entries are checked, their miniatures trained, the evidence kept beside them.

facts.py     what an entry says, against the architecture that is built of it and the template that is rendered
verify.py    a true run of the miniature of every entry, judged by the criteria of an onboarding
evidence.py  <registry>/evidence/<slug>.json: what was measured, and of which entry
table.py     registry/README.md
imports.py   entries out of the layout of earlier versions
"""

from __future__ import annotations

from swarm.registry.imports import import_registry
from swarm.registry.verify import verify_registry

__all__ = ["import_registry", "verify_registry"]
