"""The driver of a supervised run with a fault in it: `python -m benchmarks.faults.child FAULT`, under a supervisor."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.faults.run import all_faults, drive
from oxrl_core.runs.rundir import RunDir

if __name__ == "__main__":
    (fault,) = [fault for fault in all_faults() if fault.name == sys.argv[1]]
    os.environ.update(fault.environment)
    sys.exit(drive(fault, RunDir(Path(os.environ["OXRL_HOME"]) / "runs" / os.environ["OXRL_RUN_ID"])))
