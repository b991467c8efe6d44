"""The space of a sweep: which values of which keys, as a grid or as seeded draws.

key=[a,b,c]          one of these values
key=log:1e-6..1e-4   between them, evenly in the logarithm (draws only)
key=uniform:0..0.3   between them, evenly (draws only)
key=int:1..8         a whole number between them, both ends among them
key=value            the same value in every trial
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from oxrl_core.errors import ConfigError

MOST_TRIALS = 1000
MOST_WHOLE_NUMBERS = 100_000
_RANGE = re.compile(r"^(log|uniform|int):([^.]+(?:\.\d[^.]*)?)\.\.(.+)$")


@dataclass(frozen=True)
class Axis:
    """One key, and the values that it may take: some, or a range."""

    key: str
    choices: tuple[Any, ...] = ()
    scale: str = ""  # log, uniform or int; "": the choices
    low: float = 0.0
    high: float = 0.0

    def drawn(self, dice: random.Random) -> Any:
        """One value by chance."""
        if self.scale == "log":
            return float(f"{math.exp(dice.uniform(math.log(self.low), math.log(self.high))):.4g}")
        if self.scale == "uniform":
            return float(f"{dice.uniform(self.low, self.high):.4g}")
        return dice.choice(self.choices)


Point = dict[str, Any]


def read_axes(texts: Sequence[str], file: Path | None = None) -> list[Axis]:
    """The axes of `key=values` texts and of a YAML file with the same; a key that stands twice is an error."""
    # Not at the top: every operation would pay for yaml.
    from oxrl_core.config.yaml_text import read_mapping, read_value

    pairs: list[tuple[str, Any, str]] = []
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the space cannot be read: {error}", str(file), "name a YAML file: key: [a, b]"
            ) from None
        pairs += [(key, value, f"{file}: {key}") for key, value in _leaves(read_mapping(text, str(file)).mapping, "")]
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ConfigError(f"{text!r} is not key=values", "sweep", "write key=[a,b,c], or key=log:1e-6..1e-4")
        is_range = _RANGE.match(value.strip())
        pairs.append((key.strip(), value.strip() if is_range else read_value(value, text), text))
    axes = [_axis(key, value, place) for key, value, place in pairs]
    for axis in axes:
        if sum(axis.key == other.key for other in axes) > 1:
            raise ConfigError(f"{axis.key} is given twice", "sweep", "give each key once")
    return axes


def points(axes: Sequence[Axis], samples: int | None, seed: int) -> list[Point]:
    """The trials: the whole grid, or `samples` different draws from the space, the same for the same seed."""
    ranges = [axis.key for axis in axes if axis.scale and not axis.choices]
    if samples is None:
        if ranges:
            raise ConfigError(
                f"{ranges[0]} is a range, and a grid needs values", "sweep", "give --samples N, or a list of values"
            )
        size = math.prod(len(axis.choices) for axis in axes)
        if size > MOST_TRIALS:
            raise ConfigError(f"the grid has {size} trials", "sweep", f"give --samples N, at most {MOST_TRIALS}")
        return [
            dict(zip([axis.key for axis in axes], values, strict=True))
            for values in itertools.product(*(axis.choices for axis in axes))
        ]
    if not 1 <= samples <= MOST_TRIALS:
        raise ConfigError(f"{samples} draws are asked for", "--samples", f"ask for 1 to {MOST_TRIALS}")
    if not ranges and samples >= math.prod(len(axis.choices) for axis in axes):
        return points(axes, None, seed)
    dice, found, seen = random.Random(seed), list[Point](), set[str]()
    for _ in range(100 * samples):  # the same point twice would only cost
        point = {axis.key: axis.drawn(dice) for axis in axes}
        if repr(point) not in seen:
            seen.add(repr(point))
            found.append(point)
        if len(found) == samples:
            break
    return found


def _axis(key: str, value: Any, place: str) -> Axis:
    match = _RANGE.match(value) if isinstance(value, str) else None
    if match:
        try:
            low, high = float(match[2]), float(match[3])
        except ValueError:
            raise ConfigError(f"{value!r} is not a range", place, "write two numbers: log:1e-6..1e-4") from None
        if not low < high or (match[1] == "log" and low <= 0) or not math.isfinite(high - low):
            raise ConfigError(
                f"{value!r} is not a range", place, "the first number is the smaller one; above 0 for log"
            )
        if match[1] == "int" and high - low > MOST_WHOLE_NUMBERS:
            raise ConfigError(
                f"{value!r} has too many values", place, f"name at most {MOST_WHOLE_NUMBERS}, or uniform:"
            )
        if match[1] == "int":
            return Axis(key, tuple(range(math.ceil(low), math.floor(high) + 1)), "int", low, high)
        return Axis(key, (), match[1], low, high)
    if isinstance(value, list):
        choices = cast("list[Any]", value)
        if not choices:
            raise ConfigError(f"{key} has no values", place, "give at least one: key=[a,b]")
        return Axis(key, tuple(choices))
    return Axis(key, (value,))


def _leaves(mapping: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            found += _leaves(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
