"""Detectors, found by walking: each looks at the facts of a run and says what it saw.

A detector is a function of RunFacts that yields `Seen`; `@detector` adds it. It names a cause of causes.yaml, never a
recipe. Severity `error`: the run is ruined or has failed; `warning`: it costs something; `info`: no fault, but good to
know. Every threshold stands in its module with the reason for its number.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.views import Evidence, Severity


@dataclass
class Seen:
    """What a detector saw: a cause, how sure it is, and why."""

    cause: str
    confidence: float
    summary: str
    severity: Severity = "error"
    evidence: list[Evidence] = field(default_factory=list[Evidence])
    next: str = ""  # instead of the cause's own
    numbers: dict[str, str] = field(default_factory=dict[str, str])
    before: int | None = None  # the step at which it began: a fork should start before it


Detector = Callable[[RunFacts], Iterator[Seen]]
_detectors: dict[str, tuple[str, Detector]] = {}


def detector(looks_at: str) -> Callable[[Detector], Detector]:
    """A decorator that registers a detector with the words for what it looks at."""

    def register(function: Detector) -> Detector:
        _detectors[f"{function.__module__}.{function.__name__}"] = (looks_at, function)
        return function

    return register


def all_detectors() -> dict[str, tuple[str, Detector]]:
    """Every detector by name, with the words for what it looks at."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_detectors.items()))


def seen_by(name: str, value: Any = None, step: int | None = None, samples: list[str] | None = None) -> Evidence:
    """A piece of evidence; numbers as they are, other things as text."""
    plain = value if isinstance(value, (float, str)) or value is None else float(value)
    return Evidence(what=name, value=plain, step=step, samples=samples or [])
