"""What tripwires said while the run went on: events with the code of a cause."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.tables import all_causes
from oxrl_core.diagnose.views import Evidence

# Other words for the same cause.
SAME = {
    "nothing_to_learn": "nothing_to_learn",
    "bad_checkpoint": "bad_checkpoint",
    "rows_dropped": "rows_lost",
    "bad_rows": "rows_lost",
    "rows_cut": "rows_lost",
    "metrics_lost": "resume_gap",
    "foreign_checkpoint": "bad_checkpoint",
}
# How it ended is looked at by detectors that know more; the supervisor says `killed` of a driver that left too slowly.
OWN = ("stalled", "disk_full", "killed", "crashed", "lost")
# A doubt of the time before the first step: references.py says what became of it.
DOUBTS = ("verifier_rejects_references",)
# Counted in the tokens or the record themselves: no course of a metric is needed to be sure of it.
COUNTED = ("double_bos", "foreign_checkpoint", "metrics_lost")


@detector("alerts of the run")
def alerts(facts: RunFacts) -> Iterator[Seen]:
    causes = all_causes()
    by_cause: dict[str, list[dict[str, object]]] = {}
    for event in facts.events:
        code = str(event.get("code", ""))
        if event.get("level") not in ("warning", "error") or code in DOUBTS:
            continue
        cause = SAME.get(code, code)
        if cause in causes and cause not in OWN:
            by_cause.setdefault(cause, []).append(event)
    for cause, events in by_cause.items():
        is_error = any(event.get("level") == "error" for event in events)
        first = events[0]
        told = [_evidence(event) for event in events[:3]]
        times = f" ({len(events)} times)" if len(events) > 1 else ""
        # Said at once by something that watched, but about one moment: less sure than the whole course.
        is_counted = any(event.get("code") in COUNTED for event in events)
        confidence = 0.9 if is_counted else 0.8 if is_error else 0.45
        message = str(first.get("message", ""))[:200]
        yield Seen(cause, confidence, f"{message}{times}", "error" if is_error else "warning", told)


def _evidence(event: dict[str, object]) -> Evidence:
    value = event.get("value")
    names: Any = event.get("samples") or event.get("parameters") or []
    samples = [str(name) for name in cast("list[Any]", names)][:5] if isinstance(names, list) else []
    limit = f" (limit {event['limit']})" if event.get("limit") is not None else ""
    step = event.get("step")
    return seen_by(
        f"{event.get('metric') or event.get('code')}{limit}",
        value if isinstance(value, (int, float, str)) else None,
        int(step) if isinstance(step, (int, float)) else None,
        samples,
    )
