"""Several rewards as one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, NotRequired, cast

from pydantic import Field
from typing_extensions import TypedDict

from oxrl_core.errors import ConfigError
from oxrl_core.rewards.base import Reward, get_reward, reward
from oxrl_core.types import Rollout, Score, ScoreStatus

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
        named.append((label, part.get("weight", 1.0), get_reward(name, part.get("params", {}))))
    return named


def check_parts(*, parts: Sequence[Mapping[str, Any]]) -> None:
    """Raises ConfigError where a part does not exist, or is judged outside the reward's process."""
    for place, (label, weight, entry) in enumerate(rewards_of(parts)):
        where = f"reward.parts[{place}]"
        if entry.make_service is not None or entry.name in ("reward_model", "none", "composite"):
            raise ConfigError(
                f"{label} cannot be a part of another reward",
                where=where,
                next_step="take rewards that are functions of the completion; a judge or a reward model stands alone",
            )
        if not math.isfinite(weight):
            raise ConfigError(f"a weight of {weight}", where=where, next_step="set weight to a finite number")


@reward("composite", scope="group", check=check_parts)
def composite(rollouts: Sequence[Rollout], *, parts: PartList) -> list[Score]:
    """Sum of the parts' scores, each times its weight (1 where none is given); every part's own score is recorded.

    `parts`: a list of {name, weight, params}. A part without a verdict leaves the whole without one: the status is the
    worst of the parts'.
    """
    judged = [(label, weight, entry.judge(rollouts)) for label, weight, entry in rewards_of(parts)]
    return [
        combine([(label, weight, scores[place]) for label, weight, scores in judged]) for place in range(len(rollouts))
    ]


def combine(parts: Sequence[tuple[str, float, Score]]) -> Score:
    """The weighted sum of scores, with the worst status among them."""
    statuses: list[ScoreStatus] = [score.status for _, _, score in parts]
    status = min(statuses, key=WORST_FIRST.index)
    details = [f"{label}: {score.detail}" for label, _, score in parts if score.detail]
    recorded: dict[str, float] = {}
    for label, _, score in parts:
        if score.status in ("ok", "no_answer"):
            recorded[label] = score.value
            recorded |= {f"{label}/{name}": value for name, value in score.parts.items()}
    is_judged = status in ("ok", "no_answer")
    value = sum(weight * score.value for _, weight, score in parts) if is_judged else math.nan
    return Score(value, status, recorded, "; ".join(details))
