"""The driver process of an onboarding: `python -m swarm.onboard [--run-dir DIR]`; its supervisor names the run."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from oxrl_core.runs.process import RUN_ID_VARIABLE
from oxrl_core.runs.rundir import RunDir, oxrl_home
from swarm.onboard.machine import Stop, onboard


def main() -> int:
    """The exit code of the onboarding."""
    parser = argparse.ArgumentParser(prog="python -m swarm.onboard", description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=oxrl_home() / "runs" / os.environ.get(RUN_ID_VARIABLE, ""))
    run = RunDir(parser.parse_args().run_dir)
    stop = Stop()
    stop.install()
    try:
        return onboard(run, stop)
    except Exception as error:  # the last frame of the process: it must leave word in the run directory
        traceback.print_exc()
        name = type(error).__name__
        what = f"{name}: {error}"
        run.write_error({"code": name, "what": what, "where": "onboarding", "next": "read logs/driver.log"})
        return 1


if __name__ == "__main__":
    sys.exit(main())
