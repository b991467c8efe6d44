"""The catalogue of rewards, and the scoring of one step's rollouts under a deadline.

A reward is a function of a rollout, or of all rollouts of one prompt (`scope="group"`); its keyword-only arguments are
its YAML keys. The verdicts of a step are computed in worker processes, not in threads: a regular expression that
backtracks for ever holds the interpreter's lock, so no thread of the driver could tell that the deadline has passed.
The workers are plain interpreters (rewards/worker.py), started once and kept: a fork of the driver would copy the locks
of Ray's and torch's threads. They isolate against hanging and crashing, not against malice.

A status says whose doing a verdict is. "ok" and "no_answer" are the model's: their value counts, and 0 is a value. A
program that runs too long is a wrong program: 0, "ok", with the part "late" at 1. "timeout" and "error" are the
verifier's: one that came to no answer in its own time (math-verify's seconds, a judge's, the step's), or that failed.
They have no value, and the rollout is left out of training.

Verdicts that somebody else computes (a judge behind a URL, a reward model on a GPU) come from a `Service` instead: the
driver only waits for it, and what it remembers (budget, cache, connections) must be one thing, not one per process.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Pipe, wait
from typing import Any, Literal, Protocol, TypeVar, cast

from oxrl_core.discover import Catalogue, Function, load_function, summary_of
from oxrl_core.errors import RewardError
from oxrl_core.parameters import Parameters, parameters_of
from oxrl_core.types import Metrics, Rollout, Score

Scope = Literal["rollout", "group"]
RewardFunction = TypeVar("RewardFunction", bound=Callable[..., Any])

START_SECONDS = 120.0  # for a worker to import the reward's module; not part of a step's deadline
MAX_WORKERS = 4  # verdicts are short; more interpreters would take the cores of the sampler
CHUNK = 16  # rollouts sent at once: what a hanging verdict can take with it


class Service(Protocol):
    """What computes the verdicts of a reward outside the driver's own Python. It keeps the deadline itself."""

    def ready(self) -> Any:
        """Raises where it cannot work here, before the run has spent anything; else what it is."""
        ...

    def score(self, rollouts: Sequence[Rollout], timeout_seconds: float) -> list[Score]:
        """One verdict per rollout, in order."""
        ...

    def metrics(self) -> Metrics:
        """What it did so far, counted."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


@dataclass(frozen=True)
class Reward:
    """A reward with the name it is called by and the values of its parameters. What its function raises is a
    verdict too."""

    name: str
    function: Callable[..., Any]
    summary: str = ""
    scope: Scope = "rollout"  # what the function sees: one rollout, or the list of all rollouts of a prompt
    params: dict[str, Any] = field(default_factory=dict[str, Any])  # in the catalogue: the defaults
    needs_answer: bool = False  # it compares with the row's reference answer
    service: Service | None = field(default=None, compare=False, repr=False)
    make_service: Callable[..., Service | None] | None = field(default=None, compare=False, repr=False)
    gold: Callable[..., str | None] | None = field(default=None, compare=False, repr=False)  # see `reward`
    check: Callable[..., None] | None = field(default=None, compare=False, repr=False)  # see `reward`
    rests_on: Callable[..., str] | None = field(default=None, compare=False, repr=False)  # see `reward`

    @property
    def parameters(self) -> Parameters:
        """What a configuration may set."""
        return parameters_of(self.function, "a reward", may_require=True)

    def __call__(self, rollout: Rollout) -> Score:
        """The verdict on one rollout, in this process and without a deadline."""
        return self.judge([rollout])[0]

    def judge(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """The verdicts on the rollouts of one prompt, in this process and without a deadline."""
        if self.service is not None:
            return self.service.score(rollouts, math.inf)
        if self.scope == "rollout":
            return [self._judge_one(rollout) for rollout in rollouts]
        try:
            results = self.function(list(rollouts), **self.params)
        except (Exception, SystemExit) as error:  # as below
            return [failed(f"{type(error).__name__}: {error}")] * len(rollouts)
        if not isinstance(results, list | tuple):
            return [failed(f"the reward returned {results!r}, which is no list of scores")] * len(rollouts)
        scores = cast("Sequence[Any]", results)
        if len(scores) != len(rollouts):
            return [failed(f"the reward gave {len(scores)} scores for {len(rollouts)} rollouts")] * len(rollouts)
        return [_as_score(score) for score in scores]

    def _judge_one(self, rollout: Rollout) -> Score:
        try:
            return _as_score(self.function(rollout, **self.params))
        except (Exception, SystemExit) as error:  # whatever it raises is its verdict: sys.exit(0) must not end a run
            return failed(f"{type(error).__name__}: {error}")


def _as_score(result: Any) -> Score:
    """The verdict that a reward's answer means."""
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
    defaults = parameters_of(function, "a reward", may_require=True).defaults
    return Reward(name, function, summary_of(function), params=defaults)


_catalogue: Catalogue[Reward] = Catalogue("reward", "oxrl_core.rewards", _describe)


def reward(
    name: str,
    *,
    scope: Scope = "rollout",
    needs_answer: bool = False,
    service: Callable[..., Service | None] | None = None,
    gold: Callable[..., str | None] | None = None,
    check: Callable[..., None] | None = None,
    rests_on: Callable[..., str] | None = None,
) -> Callable[[RewardFunction], RewardFunction]:
    """A decorator that registers a reward function under a name and returns it unchanged.

    The function sees a rollout and returns a number or a Score; with scope "group" it sees the list of a prompt's
    rollouts and returns as many. What it raises becomes a Score with status "error". `service` makes, from the
    parameters, what computes the verdicts instead of the worker processes (None: they do). `gold` writes, from a prompt
    and the parameters, the completion that its reference answer stands for (None: it cannot say): before step 0 such
    completions must score 1 (rewards/self_test.py). `check` raises where parameters contradict each other. `rests_on`
    says, from the parameters, what of this machine the verdicts rest on: it is written into the run.
    """

    def register(function: RewardFunction) -> RewardFunction:
        entry = replace(
            _describe(name, function),
            scope=scope,
            needs_answer=needs_answer,
            make_service=service,
            gold=gold,
            check=check,
            rests_on=rests_on,
        )
        _catalogue.add(name, function, entry)
        return function

    return register


def get_reward(name: str, params: Mapping[str, Any] | None = None) -> Reward:
    """The reward of that name, with every parameter's value; or your own: `package.module:function`,
    `path/to/file.py:function`, and there a function of a rollout or what rewards/own.py knows."""
    entry = _own_reward(name) if ":" in name else _catalogue.get(name)
    filled = entry.parameters.fill(params or {}, section="reward", owner=entry.name)
    if entry.check:
        entry.check(**filled)
    service = entry.make_service(**filled) if entry.make_service else None
    return replace(entry, params=filled, service=service)


def _own_reward(path: str) -> Reward:
    from oxrl_core.rewards.own import form_of, travelling  # it imports nothing of this module, but is seldom needed

    function = load_function(path, "reward")
    known = _catalogue.entry_of(function)
    if known is not None:
        return replace(known, function=travelling(path, function))
    form = form_of(function)
    if form is None:
        return _describe(path, travelling(path, function))
    return replace(_describe(form.name or path, travelling(path, function)), scope=form.scope)


def all_rewards() -> dict[str, Reward]:
    """Every built-in reward, by name, with the defaults of its parameters."""
    return _catalogue.all()


def split_groups(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """The rollouts prompt by prompt: a new group starts at each sample_index 0.

    Not at each new prompt id: a prompt that is drawn twice in one step makes two groups.
    """
    groups: list[list[Rollout]] = []
    for rollout in rollouts:
        if rollout.sample_index == 0 or not groups:
            groups.append([])
        groups[-1].append(rollout)
    return groups


def score_rollouts(reward: Reward, rollouts: Sequence[Rollout], timeout_seconds: float) -> list[Score]:
    """One verdict per rollout, in order, after at most `timeout_seconds`: "timeout" for what did not come by then.

    The rollouts come prompt by prompt, each prompt's with sample_index 0, 1, ...
    """
    if reward.service is not None:
        return reward.service.score(rollouts, timeout_seconds) if rollouts else []
    jobs = split_groups(rollouts) if reward.scope == "group" else [[rollout] for rollout in rollouts]
    with _lock:
        pool = _pools.get(reward.name)
        if pool is None or pool.reward != reward:
            close_workers()  # a run has one reward; another one's workers would only hold memory
            pool = _pools[reward.name] = _Pool(reward)
        return pool.score(jobs, timeout_seconds)


def close_workers() -> None:
    """Ends every worker process."""
    for pool in _pools.values():
        pool.close()
    _pools.clear()


class _Worker:
    """One process that scores chunks of jobs and answers one job's verdicts at a time."""

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
        self.pending: list[int] = []  # jobs sent and not yet answered, in the order of the answers
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
        self.suspects: set[int] = set()  # jobs of this call at which a worker has died

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

    def score(self, jobs: Sequence[list[Rollout]], timeout_seconds: float) -> list[Score]:
        """One verdict per rollout of each job; a job is what the reward's function sees at once."""
        results: list[list[Score] | None] = [None] * len(jobs)
        waiting = deque(range(len(jobs)))
        self.suspects.clear()
        chunk = max(1, CHUNK // max((len(job) for job in jobs), default=1))
        # Two even on one core: where one hangs, the other goes on.
        self.start(min(MAX_WORKERS, max(2, os.cpu_count() or 1), -(-len(jobs) // chunk)))
        try:
            self._collect(jobs, results, waiting, chunk, time.monotonic() + timeout_seconds)
        finally:
            # A worker that still owes verdicts hangs, or was interrupted: the next step must not read its answers.
            for worker in [worker for worker in self.workers if worker.pending]:
                self.drop(worker)
        late = Score(math.nan, "timeout", detail=f"no verdict within {timeout_seconds:g} s")
        return [
            score
            for job, result in zip(jobs, results, strict=True)
            for score in ([late] * len(job) if result is None else result)
        ]

    def _collect(
        self,
        jobs: Sequence[list[Rollout]],
        results: list[list[Score] | None],
        waiting: deque[int],
        chunk: int,
        deadline: float,
    ) -> None:
        """Fills in verdicts until all are there or the deadline has passed."""
        while True:
            for worker in self.workers:
                if waiting and not worker.pending:
                    self._send(worker, [waiting.popleft() for _ in range(min(chunk, len(waiting)))], jobs, deadline)
            busy = [worker for worker in self.workers if worker.pending]
            seconds = deadline - time.monotonic()
            if not busy or seconds <= 0:
                return
            ready = wait([worker.connection for worker in busy], timeout=seconds)
            for worker in busy:
                if worker.connection not in ready:
                    continue
                try:
                    results[worker.pending[0]] = worker.connection.recv()
                    worker.pending.pop(0)
                except (EOFError, OSError):
                    self._replace(worker, jobs, results, waiting)

    def _send(self, worker: _Worker, chunk: list[int], jobs: Sequence[list[Rollout]], deadline: float) -> None:
        worker.pending = chunk
        seconds = max(deadline - time.monotonic(), 0.0)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died idle: the next receive says so
                worker.connection.send((seconds, [jobs[index] for index in chunk]))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise RewardError(
                f"a rollout's row holds something that cannot be sent to the reward's process: {error}",
                where=jobs[chunk[0]][0].prompt.id,
                next_step="keep plain values (text, numbers, bytes, lists, mappings) in the dataset's rows",
            ) from error

    def _replace(
        self,
        worker: _Worker,
        jobs: Sequence[list[Rollout]],
        results: list[list[Score] | None],
        waiting: deque[int],
    ) -> None:
        """Starts a new worker, which gets the jobs of the dead one. The job at which a second one dies is to blame:
        somebody else may have killed the first."""
        exit_code = worker.process.wait(timeout=10)
        suspect, *innocent = worker.pending
        waiting.extendleft(reversed(innocent))
        if suspect in self.suspects:
            results[suspect] = [failed(f"the reward's process ended with exit code {exit_code}")] * len(jobs[suspect])
        else:
            self.suspects.add(suspect)
            waiting.appendleft(suspect)
        self.drop(worker)
        self.start(len(self.workers) + 1)


_pools: dict[str, _Pool] = {}
_lock = threading.Lock()
atexit.register(close_workers)
