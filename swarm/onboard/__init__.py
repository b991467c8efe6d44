"""Onboarding: from the name of a model to a registry entry with evidence, without help.

order.py     what is asked, and the run that answers it: onboard_model, steer_onboarding
machine.py   the states, and the journal that a restart goes on from
states.py    what is done in each
criteria.py  what "verified" means
archive.py   entries with their fixes and evidence, which no later onboarding loses
queue.py     many models, several workers
"""

from __future__ import annotations

from swarm.onboard.order import onboard_model, steer_onboarding

__all__ = ["onboard_model", "steer_onboarding"]
