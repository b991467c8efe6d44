"""Several rewards as one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, cast

from pydantic import Field
from typing_extensions import TypedDict

from oxrl_core.errors import ConfigError
from oxrl_core.rewards.base import Reward, Service, get_reward, reward, score_rollouts, split_groups
from oxrl_core.rewards.judge import Judge
from oxrl_core.types import Metrics, Rollout, Score, ScoreStatus

WORST_FIRST: tuple[ScoreStatus, ...] = ("error", "timeout", "no_answer", "ok")


class Part(TypedDict):
    """One reward of several."""

    __pydantic_config__ = {"extra": "forbid"}  # pyright: ignore  # noqa: RUF012 - where pydantic looks for it

    name: str
    weight: NotRequired[float]
    params: NotRequired[dict[str, Any]]


PartList = Annotated[list[Part], Field(min_length=1)]


def rewards_of(parts: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, Reward]]:
    """Label, weight and reward of each part; the second `gsm8k` is `gsm8k#2`."""
    return _rewards_of(json.dumps(list(parts), sort_keys=True))


@lru_cache(maxsize=16)
def _rewards_of(parts: str) -> list[tuple[str, float, Reward]]:
    named: list[tuple[str, float, Reward]] = []
    for part in cast("list[Part]", json.loads(parts)):
        name = part["name"]
        count = 1 + sum(label.partition("#")[0] == name for label, _, _ in named)
        label = name if count == 1 else f"{name}#{count}"
        # Without what judges it: that is opened once, by the whole reward's own service, and closed with it.
        entry = replace(get_reward(name, part.get("params", {})), service=None)
        named.append((label, part.get("weight", 1.0), entry))
    return named


def check_parts(*, parts: Sequence[Mapping[str, Any]]) -> None:
    """Raises ConfigError where a part does not exist, or cannot be one."""
    named = rewards_of(parts)
    for place, (label, weight, entry) in enumerate(named):
        where = f"reward.parts[{place}]"
        if entry.name in ("none", "composite"):
            raise ConfigError(
                f"{label} cannot be a part of another reward",
                where=where,
                next_step="name the rewards themselves as parts",
            )
        if label == "reward_model#2":
            raise ConfigError(
                "a run holds one reward model", where=where, next_step="take one of them, or let a judge be the other"
            )
        if not math.isfinite(weight):
            raise ConfigError(f"a weight of {weight}", where=where, next_step="set weight to a finite number")


class Together:
    """The parts of a reward of which some are judged elsewhere: their services, and worker processes for the others.

    All of them judge at the same time, each within the step's deadline.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        self.parts = rewards_of(parts)
        self.services: dict[str, Service] = {}
        for label, _, entry in self.parts:
            service = entry.make_service(**entry.params) if entry.make_service else None
            if service is not None:
                self.services[label] = service
        others = [part for part, (_, _, entry) in zip(parts, self.parts, strict=True) if not is_served(entry)]
        self.functions = get_reward("composite", {"parts": others}) if others else None

    def attach(self, reward_model: Service) -> None:
        """The service of the part `reward_model`, which a run starts on a worker of its own."""
        self.services["reward_model"] = reward_model

    def keep_count(self, folder: Path) -> None:
        """Counts the calls of every judge in a run's folder."""
        for label, service in self.services.items():
            if isinstance(service, Judge):
                service.keep_count(folder, f"{label}_calls")

    def ready(self) -> None:
        """Raises where one of those that are there cannot work."""
        for service in self.services.values():
            service.ready()

    def score(self, rollouts: Sequence[Rollout], timeout_seconds: float) -> list[Score]:
        """One verdict per rollout, in order; the rollouts come prompt by prompt."""
        judged: list[list[tuple[str, float, Score]]] = [[] for _ in rollouts]
        with ThreadPoolExecutor(max(len(self.services), 1), thread_name_prefix="part") as threads:
            coming = {
                label: threads.submit(service.score, rollouts, timeout_seconds)
                for label, service in self.services.items()
            }
            by_functions = self._by_functions(rollouts, timeout_seconds)
            for label, weight, entry in self.parts:
                if not is_served(entry):
                    continue
                # What no run has attached says itself that only a run does.
                scores = coming[label].result() if label in coming else [entry(rollout) for rollout in rollouts]
                for place, score in enumerate(scores):
                    judged[place].append((label, weight, score))
        return [combine(by_service, functions) for by_service, functions in zip(judged, by_functions, strict=True)]

    def _by_functions(self, rollouts: Sequence[Rollout], timeout_seconds: float) -> Sequence[Score | None]:
        """The parts that are functions as one score, which has recorded them."""
        if self.functions is None:
            return [None] * len(rollouts)
        if math.isinf(timeout_seconds):
            return [score for group in split_groups(rollouts) for score in self.functions.judge(group)]
        return score_rollouts(self.functions, rollouts, timeout_seconds)

    def metrics(self) -> Metrics:
        """What the services count, the second judge's as `judge#2/calls`."""
        return {
            f"{label}/{name.partition('/')[2]}": value
            for label, service in self.services.items()
            for name, value in service.metrics().items()
        }

    def close(self) -> None:
        """Ends the services."""
        for service in self.services.values():
            service.close()


def is_served(entry: Reward) -> bool:
    """Whether a reward is judged outside the reward's worker processes."""
    return entry.make_service is not None or entry.name == "reward_model"


def together(*, parts: Sequence[Mapping[str, Any]]) -> Together | None:
    """The service of these parts; None where all of them are functions."""
    return Together(parts) if any(is_served(entry) for _, _, entry in rewards_of(parts)) else None


@reward("composite", scope="group", check=check_parts, service=together)
def composite(rollouts: Sequence[Rollout], *, parts: PartList) -> list[Score]:
    """Sum of the parts' scores, each times its weight (1 where none is given); every part's own score is recorded.

    `parts`: a list of {name, weight, params}, a judge and a reward model among them if you like. A part without a
    verdict leaves the whole without one: the status is the worst of the parts'.
    """
    judged = [(label, weight, entry.judge(rollouts)) for label, weight, entry in rewards_of(parts)]
    return [
        combine([(label, weight, scores[place]) for label, weight, scores in judged]) for place in range(len(rollouts))
    ]


def combine(parts: Sequence[tuple[str, float, Score]], others: Score | None = None) -> Score:
    """The weighted sum of scores, with the worst status among them; `others` is such a sum already."""
    recorded: dict[str, float] = dict(others.parts) if others else {}
    for label, _, score in parts:
        if score.status in ("ok", "no_answer"):
            recorded[label] = score.value
            recorded |= {f"{label}/{name}": value for name, value in score.parts.items()}
    scores = [*([others] if others else []), *(score for _, _, score in parts)]
    statuses: list[ScoreStatus] = [score.status for score in scores]
    status = min(statuses, key=WORST_FIRST.index)
    details = [others.detail] if others and others.detail else []
    details += [f"{label}: {score.detail}" for label, _, score in parts if score.detail]
    is_judged = status in ("ok", "no_answer")
    value = sum(weight * score.value for _, weight, score in parts) if is_judged else math.nan
    return Score(value + (others.value if others else 0.0), status, recorded, "; ".join(details))
