"""The process that computes verdicts: `python -m oxrl_core.rewards.worker FD`, started by rewards/base.py.

It reads the reward, then chunks of jobs (a rollout, or all rollouts of a prompt), from the descriptor FD, and writes
one job's verdicts at a time. It ends when the other side closes, and of itself when a chunk's deadline has long passed,
so that a hanging verdict outlives nobody.
Ctrl-C in a terminal reaches every process of the run: here it is ignored, because the driver decides when the run ends.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from multiprocessing.connection import Connection

GRACE_SECONDS = 5.0  # the driver ends a late worker first, where it is still there


def serve(connection: Connection) -> None:
    """Answers chunks until the other side closes."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(connection)


def _serve(connection: Connection) -> None:
    try:
        reward = connection.recv()
    except Exception as error:  # the reward's module is somebody's own: its error travels to the driver as text
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send(None)
    while True:
        seconds, jobs = connection.recv()
        # The default action of SIGALRM ends the process even while C code holds the interpreter's lock.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
        for job in jobs:
            connection.send(reward.judge(job))
        signal.setitimer(signal.ITIMER_REAL, 0.0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])))
