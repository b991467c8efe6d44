"""A diagnosis on one screen: the first causes whole, the others in a line each."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any

from oxrl_core.cli.tables import STATE_STYLES, next_line, styled, width
from oxrl_core.cli.text import number

if TYPE_CHECKING:
    from oxrl_core.diagnose.views import Change, Diagnosis, Evidence, Finding

WHOLE = 2  # findings that are shown with their evidence
EVIDENCE = 3  # pieces of it: more do not fit on 24 lines


def draw_diagnosis(diagnosis: Diagnosis) -> Iterable[Any]:
    """What rich prints of a diagnosis."""
    yield styled(f"{diagnosis.run_id}  {diagnosis.state}  step {diagnosis.step}", "bold")
    yield styled(f"{'ambiguous: ' if diagnosis.ambiguous else ''}{diagnosis.headline}")
    for finding in diagnosis.findings[:WHOLE]:
        yield styled("")
        yield from _draw(finding)
    rest = diagnosis.findings[WHOLE:]
    if rest:
        yield styled("")
    for finding in rest[:6]:
        yield styled(shorten(f"{_mark(finding)} {finding.cause}: {finding.summary}", width(), placeholder=" ..."))
    if not diagnosis.findings:
        yield from (styled(line) for line in wrap(f"looked at: {', '.join(diagnosis.looked_at)}", width()))
    if diagnosis.missing:
        yield from (styled(line, "dim") for line in wrap(f"not looked at: {'; '.join(diagnosis.missing)}", width()))
    if diagnosis.command:
        yield styled("")
        yield next_line(diagnosis.command)


def _draw(finding: Finding) -> Iterable[Any]:
    style = STATE_STYLES.get(finding.severity, "")
    yield styled(f"{_mark(finding)} {finding.cause}", f"bold {style}".strip())
    yield from (styled(f"  {line}") for line in wrap(finding.summary, width() - 2))
    for item in finding.evidence[:EVIDENCE]:
        yield styled("  - " + shorten(_said(item), width() - 4, placeholder=" ..."), "dim")
    for change in finding.overlay:
        yield styled("  " + shorten(f"change {_changed(change)}", width() - 2, placeholder=" ..."))
    if finding.next:
        yield from (styled(f"  {line}") for line in wrap(f"do: {finding.next}", width() - 2)[:2])
    if finding.explains:
        yield styled("  " + shorten(f"explains {', '.join(finding.explains)}", width() - 2, placeholder=" ..."), "dim")


def _mark(finding: Finding) -> str:
    return f"[{finding.severity} {finding.confidence:.0%}]"


def _said(item: Evidence) -> str:
    value = "" if item.value is None else f" = {number(item.value)}"
    step = "" if item.step is None else f" at step {item.step}"
    samples = f" ({', '.join(item.samples[:2])})" if item.samples else ""
    return f"{item.what}{value}{step}{samples}"


def _changed(change: Change) -> str:
    why = f": {change.why}" if change.why else ""
    risk = "" if change.risk == "S" else " (another experiment)"
    return f"{change.path} {number(change.old)} -> {number(change.new)}{why}{risk}"
