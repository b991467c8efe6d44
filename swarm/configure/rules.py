"""The rules of rules.yaml over the facts of one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from oxrl_core.config.yaml_text import read_mapping


@dataclass(frozen=True)
class Chosen:
    """A value and its reason."""

    value: Any
    reason: str


@lru_cache
def rule_book() -> dict[str, Any]:
    """The rules, as data."""
    path = Path(__file__).with_name("rules.yaml")
    return read_mapping(path.read_text(encoding="utf-8"), path.name).mapping


def holds(when: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether every condition is met; a fact that nobody knows meets none."""
    for name, wanted in when.items():
        value = facts[name]
        if isinstance(wanted, dict):
            test = cast("dict[str, Any]", wanted)
            if "one_of" in test and value not in test["one_of"]:
                return False
            if "at_least" in test and not (value is not None and value >= test["at_least"]):
                return False
            if "below" in test and not (value is not None and value < test["below"]):
                return False
        elif value != wanted:
            return False
    return True


def choose_lengths(facts: Mapping[str, Any]) -> tuple[int, int, int, str]:
    """Prompt, completion and example tokens, and why."""
    for rule in cast("list[dict[str, Any]]", rule_book()["lengths"]):
        if holds(rule["when"], facts):
            return rule["prompt"], rule["completion"], rule["example"], str(rule["why"]).format(**facts)
    raise AssertionError("the last of the lengths holds for everything")


def apply_rules(facts: Mapping[str, Any]) -> dict[str, Chosen]:
    """Dotted key -> value and reason; the last rule that holds wins."""
    chosen: dict[str, Chosen] = {}
    for rule in cast("list[dict[str, Any]]", rule_book()["rules"]):
        if holds(rule["when"], facts):
            reason = str(rule["why"]).format(**facts)
            for key, value in cast("dict[str, Any]", rule["set"]).items():
                is_fact = isinstance(value, str) and value.startswith("{") and value.endswith("}")
                chosen[key] = Chosen(facts[value[1:-1]] if is_fact else value, reason)
    return chosen
