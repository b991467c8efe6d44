"""Patches on the configuration: the rules that the plans of signatures.yaml and causes.yaml are written in.

A plan is a list of patches in the order in which to try them: one change per attempt, so that it is known what helped.
A patch marked `also` goes with the one before it. A patch that changes nothing, or whose numbers are not known, is no
patch. What a patch is worth risking is a matter of its key: a smaller micro-batch leaves the gradient as it is (S),
a learning rate is another experiment (A).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict

Risk = Literal["S", "A", "N"]
Rule = Literal[
    "set", "halve", "double", "multiply", "add", "at_least", "from_text", "largest_divisor", "only_of", "fifth_of",
    "set_usual_lr",
]  # fmt: skip

# Keys that change how a run is carried out, not what it learns. Every other key is an experiment of its own.
SAFE_KEYS = frozenset(
    {
        "train.micro_batch_tokens", "train.keep_checkpoints", "train.save_every", "model.gradient_checkpointing",
        "model.attention", "deepspeed.offload_optimizer", "deepspeed.offload_params", "deepspeed.zero_stage",
        "deepspeed.bucket_size", "rollout.memory_fraction", "rollout.tensor_parallel", "rollout.num_workers",
        "rollout.colocate", "rollout.cpu_kv_cache_gib", "rollout.engine", "run.call_timeout_seconds",
        "run.start_timeout_seconds", "reward.timeout_seconds", "model.precision",
    }
)  # fmt: skip
ORDER = {"S": 0, "A": 1, "N": 2}


class PatchRule(BaseModel):
    """How one value of the configuration is to change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    rule: Rule
    why: str = ""
    value: Any = None
    """`set`, `at_least`: the value."""
    by: float = 0.0
    """`add`, `multiply`."""
    floor: float | None = None
    cap: float | None = None
    number: str = ""
    """`from_text`: the parsed number; `largest_divisor`: what it must divide; `only_of`: the list."""
    per: str = ""
    """`from_text`: the parsed number to divide by."""
    plus: float = 0.0
    """`from_text`: added to it."""
    minus: str = ""
    """`from_text`: the key whose value is taken off."""
    of: str = ""
    """`fifth_of`: the key."""
    when: dict[str, Any] = {}
    """Keys that must have these values; `phase` is that of the failure."""
    when_not: dict[str, Any] = {}
    also: bool = False
    risk: Risk | None = None


@dataclass(frozen=True)
class Patch:
    """One change of the configuration."""

    path: str
    old: Any
    new: Any
    why: str
    risk: Risk
    also: bool = False


@dataclass(frozen=True)
class PlanFacts:
    """What is known of a failure beside its name."""

    phase: Literal["", "start", "train", "rollout", "save"] = ""
    numbers: Mapping[str, str] = field(default_factory=dict[str, str])  # parsed out of the text
    tried: Sequence[tuple[str, Any]] = ()  # (path, new) of earlier attempts: no patch twice


def patches(rules: Sequence[PatchRule], settings: Mapping[str, Any], facts: PlanFacts, risk: Risk = "S") -> list[Patch]:
    """The patches that these rules mean for a configuration, in the order in which to try them."""
    if risk == "N":
        return []
    found: list[Patch] = []
    for rule in rules:
        old = value_at(settings, rule.path)
        if rule.also and (not found or found[-1].path == rule.path):
            continue
        if not _applies(rule, settings, facts):
            continue
        new = _new_value(rule, old, settings, facts.numbers)
        if new is None or new == old or (rule.path, new) in list(facts.tried):
            continue
        own: Risk = rule.risk or ("S" if rule.path in SAFE_KEYS else "A")
        found.append(Patch(rule.path, old, new, rule.why, max(own, risk, key=ORDER.__getitem__), rule.also))
    return found


def first_attempt(plan: Sequence[Patch]) -> list[Patch]:
    """The patches of the first attempt: the first one, and what goes with it."""
    attempt = list(plan[:1])
    for patch in plan[1:]:
        if not patch.also:
            break
        attempt.append(patch)
    return attempt


def value_at(settings: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = settings
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = cast("Mapping[str, Any]", value).get(part)
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[int(part)]
        else:
            return None
    return value


def _applies(rule: PatchRule, settings: Mapping[str, Any], facts: PlanFacts) -> bool:
    def is_so(key: str, wanted: Any) -> bool:
        return (facts.phase if key == "phase" else value_at(settings, key)) == wanted

    return all(is_so(key, wanted) for key, wanted in rule.when.items()) and not any(
        is_so(key, unwanted) for key, unwanted in rule.when_not.items()
    )


def _new_value(rule: PatchRule, old: Any, settings: Mapping[str, Any], numbers: Mapping[str, str]) -> Any:
    if rule.rule == "set":
        return rule.value
    if rule.rule == "only_of":
        known = [name.strip(" '\"[]") for name in numbers.get(rule.number, "").split(",") if name.strip(" '\"[]")]
        return known[0] if len(known) == 1 else None
    if rule.rule == "from_text":
        number = _number(numbers.get(rule.number))
        if number is None:
            return None
        if rule.per:
            divisor = _number(numbers.get(rule.per))
            if not divisor:
                return None
            number /= divisor
        taken = _number(value_at(settings, rule.minus)) if rule.minus else 0.0
        return None if taken is None else _bounded(number + rule.plus - taken, rule, old)
    if rule.rule == "largest_divisor":
        whole, most = _number(numbers.get(rule.number)), _number(old)
        if whole is None or most is None or whole < 1:
            return None
        return max(size for size in range(1, max(1, int(most)) + 1) if int(whole) % size == 0)
    if rule.rule == "fifth_of":
        whole = _number(value_at(settings, rule.of))
        return None if whole is None else max(1, int(whole // 5))
    if rule.rule == "set_usual_lr":
        return _usual_lr(settings, _number(old))
    now = _number(old)
    if now is None:
        return None
    if rule.rule == "at_least":
        return max(now, float(rule.value))
    factor = {"halve": 0.5, "double": 2.0, "multiply": rule.by}.get(rule.rule)
    return _bounded(now * factor if factor is not None else now + rule.by, rule, old)


def _bounded(value: float, rule: PatchRule, old: Any) -> Any:
    """Within the bounds of the rule, in the type of the old value; None where a bound turns its direction round."""
    if rule.floor is not None:
        value = max(value, rule.floor)
    if rule.cap is not None:
        value = min(value, rule.cap)
    was = _number(old)
    downward = rule.rule == "halve" or (rule.rule == "multiply" and rule.by < 1) or (rule.rule == "add" and rule.by < 0)
    upward = rule.rule == "double" or (rule.rule == "multiply" and rule.by > 1) or (rule.rule == "add" and rule.by > 0)
    if was is not None and ((downward and value >= was) or (upward and value <= was)):
        return None
    if isinstance(old, int) and not isinstance(old, bool):
        return int(value) if value >= 1 or rule.floor is not None else None
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _usual_lr(settings: Mapping[str, Any], old: float | None) -> float | None:
    """A learning rate that is usual: 2e-4 for adapters; 1e-3 for a miniature, which is small; 1e-5, and 1e-6 for RL."""
    if value_at(settings, "model.lora.enabled"):
        usual = 2e-4
    elif str(value_at(settings, "model.path")).startswith("miniature:"):
        usual = 1e-3
    else:
        usual = 1e-6 if value_at(settings, "rollout.record") and value_at(settings, "reward.name") else 1e-5
    return usual if old is None or usual > old else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
