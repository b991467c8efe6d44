"""What the operator of the server allows: in its environment, and in the YAML file that OXRL_MCP_POLICY names.

OXRL_MCP_TOOLSETS=discover,run,...    only these tools          OXRL_MCP_READ_ONLY=1    only tools that change nothing
OXRL_MCP_MAX_GPU_HOURS=8              most of one run           OXRL_MCP_MAX_CONCURRENT_RUNS=2
OXRL_MCP_ASK_ABOVE_GPU_HOURS=2        a person is asked before  OXRL_MCP_ROOTS=/data:/models   folders to read from
OXRL_MCP_LAUNCHES_PER_HOUR=60         of all servers of a home  OXRL_MCP_CALLS_PER_SECOND=50   of this server
OXRL_MCP_ALLOW_PUSH=1                 final models may go to the hub
OXRL_MCP_ALLOW_CODE=my_rewards,...    installed packages whose functions a configuration may name

In the file they are called toolsets, read_only, max_gpu_hours and so on; a variable that is set stands above it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from oxrl_core.errors import ConfigError

TOOLSETS = ("discover", "config", "run", "observe", "onboard", "report")
LAUNCHES_PER_HOUR, CALLS_PER_SECOND = 60.0, 50.0  # far above what a working agent needs; 0: no limit
PREFIX = "OXRL_MCP_"
IN_FILE = (
    "toolsets", "read_only", "max_gpu_hours", "ask_above_gpu_hours", "max_concurrent_runs", "roots", "allow_push",
    "allow_code", "launches_per_hour", "calls_per_second",
)  # fmt: skip
TRUE, FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Policy:
    """What a server may do."""

    toolsets: frozenset[str] = frozenset(TOOLSETS)
    read_only: bool = False
    max_gpu_hours: float | None = None
    ask_above_gpu_hours: float | None = None
    max_concurrent_runs: int | None = None
    roots: tuple[Path, ...] = ()
    allow_push: bool = False
    allow_code: frozenset[str] = frozenset()
    launches_per_hour: float | None = LAUNCHES_PER_HOUR
    calls_per_second: float | None = CALLS_PER_SECOND

    def why_not_offered(self, toolset: str, is_read: bool) -> tuple[str, str]:
        """Why a tool is not offered and how it would be; empty where it is."""
        if self.read_only and not is_read:
            return "this server is read-only", "its operator starts it without OXRL_MCP_READ_ONLY"
        if toolset not in self.toolsets:
            chosen = ",".join(name for name in TOOLSETS if name in self.toolsets)
            return f"this server offers the toolsets {chosen}", f"its operator adds {toolset} to OXRL_MCP_TOOLSETS"
        return "", ""


def read_policy(environment: Mapping[str, str]) -> Policy:
    """The policy that an environment asks for; a value that cannot be meant is an error, never a looser policy."""
    environment = {**_of_file(environment.get("OXRL_MCP_POLICY", "")), **{k: v for k, v in environment.items() if v}}
    named = _words(environment, "OXRL_MCP_TOOLSETS")
    unknown = [word for word in named if word not in TOOLSETS and word != "all"]
    if unknown:
        raise ConfigError(f"there is no toolset {unknown[0]!r}", "OXRL_MCP_TOOLSETS", f"name of: {', '.join(TOOLSETS)}")
    runs = _number(environment, "OXRL_MCP_MAX_CONCURRENT_RUNS")
    return Policy(
        toolsets=frozenset(TOOLSETS if not named or "all" in named else named),
        read_only=_flag(environment, "OXRL_MCP_READ_ONLY"),
        max_gpu_hours=_number(environment, "OXRL_MCP_MAX_GPU_HOURS"),
        ask_above_gpu_hours=_number(environment, "OXRL_MCP_ASK_ABOVE_GPU_HOURS"),
        max_concurrent_runs=None if runs is None else int(runs),
        roots=_roots(environment),
        allow_push=_flag(environment, "OXRL_MCP_ALLOW_PUSH"),
        allow_code=frozenset(_words(environment, "OXRL_MCP_ALLOW_CODE")),
        launches_per_hour=_rate(environment, "OXRL_MCP_LAUNCHES_PER_HOUR", LAUNCHES_PER_HOUR),
        calls_per_second=_rate(environment, "OXRL_MCP_CALLS_PER_SECOND", CALLS_PER_SECOND),
    )


def current_policy() -> Policy:
    """The policy of this process."""
    return read_policy(os.environ)


def _of_file(name: str) -> dict[str, str]:
    """What the operator's file says, as the variables that say the same."""
    if not name:
        return {}
    from oxrl_core.config.yaml_text import read_mapping

    try:
        found = read_mapping(Path(name).expanduser().read_text(encoding="utf-8"), name).mapping
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"it cannot be read: {error}", "OXRL_MCP_POLICY", "name a YAML file, or unset it") from None
    unknown = [str(key) for key in found if key not in IN_FILE]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no key of a policy", name, f"the keys are: {', '.join(IN_FILE)}")
    return {f"{PREFIX}{key.upper()}": _as_text(key, value) for key, value in found.items()}


def _as_text(key: str, value: object) -> str:
    if isinstance(value, list):
        words = cast("list[object]", value)
        return (os.pathsep if key == "roots" else ",").join(str(one) for one in words)
    return "" if value is None else str(value)


def _words(environment: Mapping[str, str], name: str) -> list[str]:
    return [word.strip() for word in environment.get(name, "").split(",") if word.strip()]


def _rate(environment: Mapping[str, str], name: str, usual: float) -> float | None:
    """A number of things in a time; none where there is no limit."""
    value = _number(environment, name)
    return usual if value is None else value or None


def _flag(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "").strip().lower()
    if value not in TRUE + FALSE:
        raise ConfigError(f"{value!r} is neither yes nor no", name, "set it to 1, or leave it unset")
    return value in TRUE


def _number(environment: Mapping[str, str], name: str) -> float | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{text!r} is no number of 0 or more", name, "set a number, or leave it unset")
    return value


def _roots(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders that a configuration may name files of; by default where the server was started, and its data."""
    from oxrl_core.runs.rundir import oxrl_home

    asked = [Path(text).expanduser() for text in environment.get("OXRL_MCP_ROOTS", "").split(os.pathsep) if text]
    own = [Path(environment[name]) for name in ("OXRL_DATA_DIR",) if environment.get(name)]
    home = Path(environment["OXRL_HOME"]) if environment.get("OXRL_HOME") else oxrl_home()
    return tuple(dict.fromkeys(path.resolve() for path in [*(asked or [Path.cwd()]), *own, home]))
