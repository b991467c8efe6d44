"""The process of a supervisor: `python -m oxrl_core.runs.supervision.supervise RUN_DIR [--adopt | --resume]`.

It detaches from its launcher, adopts every orphan below it (subreaper), and is the run's supervisor while it holds the
run's lock. With `--adopt` it takes the place of a supervisor that died, with `--resume` a run that has ended goes on.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

from oxrl_core.errors import DeadlineError, MachineError
from oxrl_core.runs.machine.disk import disk_refusals
from oxrl_core.runs.records import read_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import ENDED_STATES
from oxrl_core.runs.supervision.resume import resumed_record
from oxrl_core.runs.supervision.supervisor import Supervisor, reply

_PR_SET_CHILD_SUBREAPER = 36


def supervise(run: RunDir, answer: int, *, adopt: bool = False, resume: bool = False) -> None:
    """Supervise the run to its end. `answer` is the pipe on which the launcher waits for one line of JSON.

    Who holds the lock is the supervisor: of two that race for a run, the second finds nothing to do.
    """
    try:
        with run.lock(1.0):
            record = read_json(run.path / "status.json")
            if adopt and record is not None and record.get("state") not in ENDED_STATES:
                Supervisor(run, record).run_to_end(answer)
            elif resume and record is not None and record.get("state") in ("stopped", "failed", "needs_input"):
                message = f"it was {record['state']}; it goes on from its last checkpoint"
                with disk_refusals(run.path):
                    run.append_event("info", "resume_asked", message)
                    (run.path / "stop.json").unlink(missing_ok=True)
                Supervisor(run, resumed_record(record), resumes=True).run_to_end(answer)
            elif (run.path / "status.json").exists():
                reply(answer, {"ok": True})  # it was launched, or stopped, before
            else:
                Supervisor(run).run_to_end(answer)
    except DeadlineError:
        reply(answer, {"ok": True})  # another supervisor holds this run
    except MachineError as error:  # the disk takes nothing; nothing has begun
        reply(answer, {"error": error.as_dict()})


def _set_subreaper() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def main() -> None:
    """Fork off: the caller waits for one line of JSON, the child is the supervisor and nobody's child."""
    run = RunDir(sys.argv[1])
    read_end, write_end = os.pipe()
    if os.fork() != 0:
        os.close(write_end)
        message = b""
        while block := os.read(read_end, 65536):
            message += block
        with suppress(BrokenPipeError):  # the launcher is gone; the run goes on
            os.write(1, message)
        os._exit(0)
    os.close(read_end)
    os.setsid()
    # The launcher waits for the end of fd 1: nothing of it may stay open here. fd 2 is logs/supervisor.log.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    _set_subreaper()
    supervise(run, write_end, adopt="--adopt" in sys.argv[2:], resume="--resume" in sys.argv[2:])


if __name__ == "__main__":
    main()
