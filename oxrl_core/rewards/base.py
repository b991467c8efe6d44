"""The catalogue of rewards, and the scoring of one step's rollouts under a deadline.

The verdicts of a step are computed in worker processes, not in threads: a regular expression that backtracks for ever
holds the interpreter's lock, so no thread of the driver could tell that the deadline has passed. The workers are plain
interpreters (rewards/worker.py), started once and kept: a fork of the driver would copy the locks of Ray's and torch's
threads. They isolate against hanging and crashing, not against malice.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Pipe, wait
from typing import Any, TypeVar

from oxrl_core.discover import Catalogue, Function, summary_of
from oxrl_core.errors import RewardError
from oxrl_core.types import Rollout, Score

RewardFunction = TypeVar("RewardFunction", bound=Callable[[Rollout], Any])

START_SECONDS = 120.0  # for a worker to import the reward's module; not part of a step's deadline
MAX_WORKERS = 4  # verdicts are short; more interpreters would take the cores of the sampler
CHUNK = 16  # rollouts sent at once: what a hanging verdict can take with it


@dataclass(frozen=True)
class Reward:
    """A function of a rollout with the name it is called by. Calling it never raises: an error is a verdict too."""

    name: str
    function: Callable[[Rollout], Any]
    summary: str = ""

    def __call__(self, rollout: Rollout) -> Score:
        """The verdict on one rollout, in this process and without a deadline."""
        try:
            result = self.function(rollout)
        except (Exception, SystemExit) as error:  # whatever it raises is its verdict: sys.exit(0) must not end a run
            return failed(f"{type(error).__name__}: {error}")
        if isinstance(result, Score):
            if result.status in ("ok", "no_answer") and not math.isfinite(result.value):
                return failed(f"the reward's value is {result.value}")
            return result
        try:
            value = float(result)
        except (TypeError, ValueError):
            return failed(f"the reward returned {result!r}, which is no number and no Score")
        return Score(value) if math.isfinite(value) else failed(f"the reward's value is {value}")


def failed(detail: str) -> Score:
    """The verdict of a reward that raised or gave no number: not a zero, but no value at all."""
    return Score(math.nan, "error", detail=detail)


def _describe(name: str, function: Function) -> Reward:
    return Reward(name, function, summary_of(function))


_catalogue: Catalogue[Reward] = Catalogue("reward", "oxrl_core.rewards", _describe)


def reward(name: str) -> Callable[[RewardFunction], RewardFunction]:
    """A decorator that registers a function of a rollout under a name and returns it unchanged.

    The function returns a number or a Score; what it raises becomes a Score with status "error".
    """

    def register(function: RewardFunction) -> RewardFunction:
        _catalogue.add(name, function, _describe(name, function))
        return function

    return register


def get_reward(name: str) -> Reward:
    """The reward of that name, or of your own function at `package.module:function`."""
    return _catalogue.get(name)


def all_rewards() -> dict[str, Reward]:
    """Every built-in reward, by name."""
    return _catalogue.all()


def score_rollouts(reward: Reward, rollouts: Sequence[Rollout], timeout_seconds: float) -> list[Score]:
    """One verdict per rollout, in order, after at most `timeout_seconds`: "timeout" for what did not come by then."""
    with _lock:
        pool = _pools.get(reward.name)
        if pool is None or pool.reward != reward:
            close_workers()  # a run has one reward; another one's workers would only hold memory
            pool = _pools[reward.name] = _Pool(reward)
        return pool.score(rollouts, timeout_seconds)


def close_workers() -> None:
    """Ends every worker process."""
    for pool in _pools.values():
        pool.close()
    _pools.clear()


class _Worker:
    """One process that scores chunks of rollouts and answers one verdict at a time."""

    def __init__(self, reward: Reward) -> None:
        try:
            message = pickle.dumps(reward)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise RewardError(
                f"the reward's function cannot be named from another process: {error}",
                where=f"reward.name = {reward.name}",
                next_step="define it at the top level of a module and name it package.module:function",
            ) from error
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "oxrl_core.rewards.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a reward prints belongs to the log, beside the errors
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        theirs.close()
        self.pending: list[int] = []  # rollouts sent and not yet answered, in the order of the answers
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died at once: the first receive says so
            self.connection.send_bytes(message)

    def wait_until_ready(self, reward: Reward) -> None:
        """Returns once the reward is imported."""
        answer = f"no answer within {START_SECONDS:.0f} s"
        if self.connection.poll(START_SECONDS):
            try:
                answer = self.connection.recv()
            except (EOFError, OSError):
                answer = f"its process ended with exit code {self.process.wait(timeout=10)}"
        if answer is not None:
            self.close()
            raise RewardError(
                f"the reward cannot be loaded: {answer}",
                where=f"reward.name = {reward.name}",
                next_step="import its module by hand in the same environment, and mend what it says",
            )

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait(timeout=10)


class _Pool:
    """The workers of one reward."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.workers: list[_Worker] = []

    def start(self, num_workers: int) -> None:
        """Brings the pool to that many living workers."""
        started = [_Worker(self.reward) for _ in range(num_workers - len(self.workers))]
        self.workers += started
        for worker in started:
            try:
                worker.wait_until_ready(self.reward)
            except RewardError:
                self.close()
                raise

    def drop(self, worker: _Worker) -> None:
        worker.close()
        self.workers.remove(worker)

    def close(self) -> None:
        for worker in list(self.workers):
            self.drop(worker)

    def score(self, rollouts: Sequence[Rollout], timeout_seconds: float) -> list[Score]:
        scores: list[Score | None] = [None] * len(rollouts)
        waiting = deque(range(len(rollouts)))
        # Two even on one core: where one hangs, the other goes on.
        num_workers = min(MAX_WORKERS, max(2, os.cpu_count() or 1), -(-len(rollouts) // CHUNK))
        self.start(num_workers)
        try:
            self._collect(rollouts, scores, waiting, time.monotonic() + timeout_seconds)
        finally:
            # A worker that still owes verdicts hangs, or was interrupted: the next step must not read its answers.
            for worker in [worker for worker in self.workers if worker.pending]:
                self.drop(worker)
        late = Score(math.nan, "timeout", detail=f"no verdict within {timeout_seconds:g} s")
        return [late if score is None else score for score in scores]

    def _collect(
        self, rollouts: Sequence[Rollout], scores: list[Score | None], waiting: deque[int], deadline: float
    ) -> None:
        """Fills in verdicts until all are there or the deadline has passed."""
        while True:
            for worker in self.workers:
                if waiting and not worker.pending:
                    self._send(worker, [waiting.popleft() for _ in range(min(CHUNK, len(waiting)))], rollouts, deadline)
            busy = [worker for worker in self.workers if worker.pending]
            seconds = deadline - time.monotonic()
            if not busy or seconds <= 0:
                return
            ready = wait([worker.connection for worker in busy], timeout=seconds)
            for worker in busy:
                if worker.connection not in ready:
                    continue
                try:
                    scores[worker.pending[0]] = worker.connection.recv()
                    worker.pending.pop(0)
                except (EOFError, OSError):
                    self._replace(worker, scores, waiting)

    def _send(self, worker: _Worker, chunk: list[int], rollouts: Sequence[Rollout], deadline: float) -> None:
        worker.pending = chunk
        seconds = max(deadline - time.monotonic(), 0.0)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died idle: the next receive says so
                worker.connection.send((seconds, [rollouts[index] for index in chunk]))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise RewardError(
                f"a rollout's row holds something that cannot be sent to the reward's process: {error}",
                where=rollouts[chunk[0]].prompt.id,
                next_step="keep plain values (text, numbers, bytes, lists, mappings) in the dataset's rows",
            ) from error

    def _replace(self, worker: _Worker, scores: list[Score | None], waiting: deque[int]) -> None:
        """Blames the rollout at which the worker died, puts the others back, and starts a new worker."""
        exit_code = worker.process.wait(timeout=10)
        guilty, *innocent = worker.pending
        scores[guilty] = failed(f"the reward's process ended with exit code {exit_code}")
        waiting.extendleft(reversed(innocent))
        self.drop(worker)
        self.start(len(self.workers) + 1)


_pools: dict[str, _Pool] = {}
_lock = threading.Lock()
atexit.register(close_workers)
