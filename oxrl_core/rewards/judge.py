"""Verdicts of another language model behind an OpenAI-compatible address (RLAIF).

`pairwise`: the completions of a prompt are compared with one another, each pair twice with swapped order. Who is
preferred both times wins; verdicts that contradict each other (a judge that likes the first place) are a tie, half a
win for either. The reward is the share of wins, in [0, 1]. `score`: each completion gets a grade from 1 to 10, scaled
to [0, 1]. A completion without company (an evaluation draws one) is compared with the row's reference answer, and
graded where there is none.

What cannot be answered is no verdict: status "error" with the reason (or "timeout" past the step's deadline), never a
zero. A comparison counts if both orders were answered; a completion with at least one of them has a verdict.

The calls run in threads of the driver's process: they only wait for the network, each has a timeout, and budget, cache
and the limit of calls at once must hold for all of them together.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from oxrl_core.parameters import Text
from oxrl_core.rewards.base import reward, split_groups
from oxrl_core.rewards.judge_cache import VerdictCache, cache_folder
from oxrl_core.rewards.judge_client import EXCERPT, ChatClient, UnansweredError
from oxrl_core.rewards.judge_questions import DEFAULT_RUBRIC, Question, task_text
from oxrl_core.types import Metrics, Rollout, Score

Mode = Literal["pairwise", "score"]
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
FORMAT = 1  # of the questions; another one makes other keys in the cache
SECONDS_ALONE = 600.0  # for `judge` called by hand

Answer = str | UnansweredError


@dataclass(frozen=True)
class Comparison:
    """Two completions of a group, by their places; or one alone."""

    first: int
    second: int | None  # None: the reference answer, or nothing where the question is a grade
    question: Question | None  # None: the texts are the same, nobody need be asked

    def asked(self) -> list[Question]:
        """What the judge is asked."""
        if self.question is None:
            return []
        return [self.question, self.question.swapped()] if self.question.kind == "choice" else [self.question]

    def share(self, verdicts: Sequence[str]) -> float:
        """What the first one gets, in [0, 1]."""
        if self.question is None:
            return 0.5
        if self.question.kind == "grade":
            return (int(verdicts[0]) - 1) / 9
        return {("A", "B"): 1.0, ("B", "A"): 0.0}.get((verdicts[0], verdicts[1]), 0.5)


class Judge:
    """The judge of a run: what it is asked, what it answered, and what it may still cost."""

    def __init__(
        self,
        *,
        mode: Mode,
        rubric: str,
        opponents: int,
        seed: int,
        concurrency: int,
        cache: str,
        max_answer_tokens: int,
        request: dict[str, Any] | None,
        **connection: Any,
    ) -> None:
        self.mode = mode
        self.rubric = rubric
        self.opponents = opponents
        self.seed = seed
        body = {"temperature": 0, "max_tokens": max_answer_tokens} | (request or {})
        self.client = ChatClient(request=body, **connection)
        self.concurrency = concurrency
        self.folder = {"auto": cache_folder(), "off": None}.get(cache, Path(cache).expanduser())
        self._cache: VerdictCache | None = None
        self._threads: ThreadPoolExecutor | None = None

    def ready(self) -> None:
        """Raises ConfigError where the key is missing. Nothing is called: a call costs money."""
        self.client.key()

    def keep_count(self, folder: Path, name: str = "judge_calls") -> None:
        """Counts the calls of a run in its folder: a run that goes on has what is left of its `max_calls`."""
        self.client.keep_count(folder / name)

    def score(self, rollouts: Sequence[Rollout], timeout_seconds: float) -> list[Score]:
        """One verdict per rollout, in order; the rollouts come prompt by prompt."""
        self.ready()
        deadline = time.monotonic() + timeout_seconds
        groups = split_groups(rollouts)
        plans = [list(self._plan(group)) for group in groups]
        # Each question once, even where two groups or two pairs pose it; both orders of a pair stay neighbours.
        questions = dict.fromkeys(one for plan in plans for comparison in plan for one in comparison.asked())
        answers = self._ask_all(list(questions), deadline)
        return [
            score for group, plan in zip(groups, plans, strict=True) for score in _verdicts(len(group), plan, answers)
        ]

    def metrics(self) -> Metrics:
        """Calls of the run; since the start retries, tokens, verdicts from the cache, questions without an answer."""
        names = ("calls", "retries", "tokens", "cached", "unanswered")
        return {f"judge/{name}": float(self.client.counts[name]) for name in names}

    def close(self) -> None:
        """Ends the threads, connections and the cache."""
        self.client.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._cache is not None:
            self._cache.close()

    def _plan(self, group: Sequence[Rollout]) -> Iterator[Comparison]:
        """Whom the completions of a group are compared with."""
        task, reference = task_text(group[0].prompt), group[0].prompt.answer.strip()
        texts = [rollout.text for rollout in group]

        def about(*answers: str, reference: str = "") -> Question:
            return Question(self.rubric, task, answers, reference)

        if self.mode == "score" or (len(group) == 1 and not reference):
            for index, text in enumerate(texts):
                yield Comparison(index, None, about(text, reference=reference))
        elif len(group) == 1:
            yield Comparison(0, None, None if texts[0] == reference else about(texts[0], reference))
        else:
            for first, second in self._pairs(group):
                a, b = texts[first], texts[second]
                yield Comparison(first, second, None if a == b else about(a, b, reference=reference))

    def _pairs(self, group: Sequence[Rollout]) -> list[tuple[int, int]]:
        """Every pair; in a large group a round in which each meets `opponents` others, by the seed and the prompt."""
        size = len(group)
        if size - 1 <= self.opponents:
            return list(combinations(range(size), 2))
        order = list(range(size))
        key = hashlib.sha256(json.dumps([self.seed, group[0].prompt.id]).encode()).digest()
        random.Random(key).shuffle(order)
        # Around a table, with the next ones: with the same number on the other side each meets exactly `opponents`.
        steps = range(1, self.opponents // 2 + 1)
        return [(order[place], order[(place + step) % size]) for step in steps for place in range(size)]

    def _ask_all(self, questions: Sequence[Question], deadline: float) -> dict[Question, Answer]:
        """What the judge says to each question by the deadline."""
        if self._threads is None:
            self._cache = VerdictCache(self.folder)
            self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge")
        late = UnansweredError("the judge did not answer within the step's deadline", is_late=True)
        futures: dict[Question, Future[Answer]] = {
            question: self._threads.submit(self._ask, question, deadline) for question in questions
        }
        waiting = set(futures.values())
        try:
            while waiting:
                seconds = None if math.isinf(deadline) else max(0.0, deadline - time.monotonic())
                done, waiting = wait(waiting, timeout=seconds, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()  # raises a ConfigError: a wrong key stays wrong, the rest need not be asked
                if not done:
                    break
        finally:
            for future in waiting:
                future.cancel()
        answers = {
            question: late if future.cancelled() or not future.done() else future.result()
            for question, future in futures.items()
        }
        self.client.count("unanswered", sum(isinstance(answer, UnansweredError) for answer in answers.values()))
        return answers

    def _ask(self, question: Question, deadline: float) -> Answer:
        """The verdict on one question, from the cache or the judge, or why there is none."""
        try:
            return self._verdict(question, deadline)
        except UnansweredError as reason:
            return reason

    def _verdict(self, question: Question, deadline: float) -> str:
        assert self._cache is not None
        client, messages = self.client, question.messages()
        key = hashlib.sha256(
            json.dumps([FORMAT, client.url, client.model, client.request, messages], sort_keys=True).encode()
        ).hexdigest()
        known = self._cache.get(key)
        if known is not None and question.read(known) == known:
            client.count("cached")
            return known
        answer = ""
        for _ in range(2):
            answer = client.complete(messages, deadline)
            verdict = question.read(answer)
            if verdict is not None:
                self._cache.put(key, verdict)
                return verdict
            said = {"role": "assistant", "content": answer or "(nothing)"}
            messages = [*messages, said, {"role": "user", "content": question.reminder()}]
        raise UnansweredError(f"the last line of the judge's answer is no verdict, twice: {answer[-EXCERPT:]!r}")


def _verdicts(size: int, plan: Sequence[Comparison], answers: dict[Question, Answer]) -> list[Score]:
    """The scores of a group from what was said about its comparisons."""
    shares: list[list[float]] = [[] for _ in range(size)]
    failures: list[list[UnansweredError]] = [[] for _ in range(size)]
    for comparison in plan:
        said = [answers[question] for question in comparison.asked()]
        verdicts = [answer for answer in said if isinstance(answer, str)]
        errors = [answer for answer in said if isinstance(answer, UnansweredError)]
        sides = [comparison.first] if comparison.second is None else [comparison.first, comparison.second]
        for side in sides:
            if errors:
                failures[side].append(errors[0])
            else:
                share = comparison.share(verdicts)
                shares[side].append(share if side == comparison.first else 1 - share)
    return [_score(own, failed) for own, failed in zip(shares, failures, strict=True)]


def _score(shares: Sequence[float], failures: Sequence[UnansweredError]) -> Score:
    if not shares:
        is_late = any(failure.is_late for failure in failures)
        return Score(math.nan, "timeout" if is_late else "error", detail=failures[0].reason)
    detail = f"{len(failures)} comparisons without an answer: {failures[0].reason}" if failures else ""
    parts = {"judged": float(len(shares)), "unanswered": float(len(failures))}
    return Score(math.fsum(shares) / len(shares), parts=parts, detail=detail)


@reward("judge", scope="group", service=Judge)
def judge(
    rollouts: list[Rollout],
    *,
    url: Text,
    model: Text,
    mode: Mode = "pairwise",
    api_key_env: str = "",
    rubric: Text = DEFAULT_RUBRIC,
    opponents: Annotated[int, Field(ge=2, multiple_of=2)] = 4,
    seed: int = 0,
    max_calls: Count | None = None,
    concurrency: Count = 8,
    call_timeout_seconds: Seconds = 60.0,
    retries: Annotated[int, Field(ge=0)] = 4,
    max_answer_tokens: Count = 512,
    request: dict[str, Any] | None = None,
    cache: Text = "auto",
) -> list[Score]:
    """Share of wins against the prompt's other completions, or a grade, by a model behind an OpenAI-compatible `url`.

    `url`: the base of the API (http://localhost:8000/v1). `api_key_env`: name of the environment variable that holds
    the key; empty: none is sent. `opponents`: in groups with more others than that, each completion meets so many of
    them; even. `max_calls`: most requests of a run, retries and resumed ones included; past it there are no verdicts.
    `request`: more fields of the request (null takes one away), as `{max_tokens: null, max_completion_tokens: 2048}`.
    `cache`: the folder of known verdicts; auto: cache/judge in the folder of all runs; off: none.
    """
    service = Judge(
        url=url,
        model=model,
        mode=mode,
        api_key_env=api_key_env,
        rubric=rubric,
        opponents=opponents,
        seed=seed,
        max_calls=max_calls,
        concurrency=concurrency,
        call_timeout_seconds=call_timeout_seconds,
        retries=retries,
        max_answer_tokens=max_answer_tokens,
        request=request,
        cache=cache,
    )
    try:
        return service.score(rollouts, SECONDS_ALONE)
    finally:
        service.close()
