"""Goes through runs one after the other in this process: `in_process.py HOME < jobs.json`, one JSON line for each.

A job is {"recipe", "overrides", "stops": [...]}: after each number of reports in `stops` the run is asked to leave, as
by SIGTERM, and started again on its directory. Everything but the process is real; one for each would take minutes.

"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from oxrl_core.engine.environment import engine_environment

os.environ.update(engine_environment())

from oxrl_core.config.load import load_config
from oxrl_core.driver import STOPPED, StopRequest, drive
from oxrl_core.runs.rundir import RunDir


class AfterReports(StopRequest):
    """Asks the run to leave after so many reports; never where it is None."""

    def __init__(self, reports: int | None) -> None:
        self.left = reports
        super().__init__()

    def install(self) -> None:
        """The signals of this process are not the run's."""

    @property
    def asked(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0

    @asked.setter
    def asked(self, value: bool) -> None:
        assert not value


def play(job: dict[str, object], home: Path) -> dict[str, object]:
    """The run directory of the job, or the error that ended it."""
    fixed = ["run.backend=local", "rollout.engine=transformers"]
    try:
        loaded = load_config(str(job["recipe"]), [*fixed, *job.get("overrides", [])])
        run = RunDir.create(home, loaded, kind="test")
        for reports in job.get("stops", []):
            assert drive(run, run.config(), AfterReports(reports)) == STOPPED
        assert drive(run, run.config(), AfterReports(None)) == 0
        return {"recipe": job["recipe"], "path": str(run.path)}
    except Exception as error:
        return {"recipe": job["recipe"], "error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"}


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the runs print belongs to the log
    for job in json.load(sys.stdin):
        print(json.dumps(play(job, Path(sys.argv[1]))), file=out, flush=True)
