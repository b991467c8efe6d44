"""Why a run went wrong."""

from __future__ import annotations

from pathlib import Path

from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.views import Diagnosis
from oxrl_core.runs import launch
from oxrl_core.runs.rundir import oxrl_home


def diagnose_run(run_id: str, *, keep: bool = True, home: Path | None = None) -> Diagnosis:
    """Ranked causes with evidence and an overlay that is ready to use; of a live, dead or old run, in any state.

    `keep`: write it into the run directory as well, for the run's report.
    """
    return diagnose(launch.find_run(home or oxrl_home(), run_id), keep=keep)
