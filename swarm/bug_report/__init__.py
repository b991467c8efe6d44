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

from swarm.bug_report.draft import draft_bug_report
from swarm.bug_report.submit import submit_bug_report

__all__ = ["draft_bug_report", "submit_bug_report"]
