"""Runs as something to look at: one report, several compared."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.runs import launch
from oxrl_core.runs.rundir import oxrl_home

if TYPE_CHECKING:
    from oxrl_core.runs.analysis.compare import ComparisonView
    from oxrl_core.runs.analysis.report import ReportView


def write_report(run_id: str, *, out: str | Path | None = None, home: Path | None = None) -> ReportView:
    """One self-contained HTML file about a run: plots, samples, configuration, events, diagnosis, environment."""
    from oxrl_core.runs.analysis.report import write_report as write

    home = home or oxrl_home()
    run = launch.find_run(home, run_id)
    has_diagnosis = (run.path / "diagnosis.json").exists()
    return write(run, Path(out) if out else None, None if has_diagnosis else _diagnosis(run.run_id, home))


def compare_runs(run_ids: Sequence[str], *, home: Path | None = None) -> ComparisonView:
    """What differs between 2 to 10 runs: keys of the configuration, metrics, and whether seeds agree on it."""
    from oxrl_core.runs.analysis.compare import compare

    home = home or oxrl_home()
    return compare([launch.find_run(home, run_id) for run_id in run_ids])


def _diagnosis(run_id: str, home: Path) -> dict[str, Any] | None:
    """What is wrong with the run; None where nothing here can say."""
    if importlib.util.find_spec("oxrl_core.api.diagnosis") is None:
        return None
    module = importlib.import_module("oxrl_core.api.diagnosis")
    return module.diagnose_run(run_id, home=home).model_dump(mode="json")
