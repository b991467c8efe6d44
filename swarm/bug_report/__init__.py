"""Bug reports about failed runs: drafted from the run directory, shown, confirmed by a hash, sent at most once.

failure.py   the exception, its frames, the fingerprint
verdict.py   a defect of oxRL, or not
body.py      the text, cleaned of secrets and names
settings.py  the operator's report.yaml
draft.py     the draft and its plan hash
ledger.py    what was sent; limits
tracker.py   GitHub's issues
submit.py    search, send, write down
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Loaded when first used: who only names a view needs none of the work behind it.
if TYPE_CHECKING:
    from swarm.bug_report.draft import draft_bug_report
    from swarm.bug_report.submit import submit_bug_report

__all__ = ["draft_bug_report", "submit_bug_report"]
_MODULE_OF = {"draft_bug_report": "draft", "submit_bug_report": "submit"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
