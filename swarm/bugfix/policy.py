"""What the operator of a home allows the Bugfixer: <home>/policy.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oxrl_core.errors import ConfigError


@dataclass(frozen=True)
class Policy:
    """What may be done without asking."""

    science_changes: bool = False  # patches that change what is learned (class A)


def read_policy(home: Path) -> Policy:
    """The policy of a home; where no file says otherwise, science stays as it is."""
    from oxrl_core.config.yaml_text import read_mapping

    path = home / "policy.yaml"
    try:
        found = read_mapping(path.read_text(encoding="utf-8"), str(path)).mapping
    except FileNotFoundError:
        return Policy()
    for key, value in found.items():
        if key != "science_changes" or not isinstance(value, bool):
            raise ConfigError(f"{key}: {value!r} is no policy", str(path), "it knows science_changes: true or false")
    return Policy(**found)
