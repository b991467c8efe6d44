"""What the operator of the server allows, read once from its environment.

OXRL_MCP_TOOLSETS=discover,run,...    only these tools          OXRL_MCP_READ_ONLY=1    only tools that change nothing
OXRL_MCP_MAX_GPU_HOURS=8              most of one run           OXRL_MCP_MAX_CONCURRENT_RUNS=2
OXRL_MCP_ASK_ABOVE_GPU_HOURS=2        a person is asked before  OXRL_MCP_ROOTS=/data:/models   folders to read from
OXRL_MCP_ALLOW_PUSH=1                 final models may go to the hub
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oxrl_core.errors import ConfigError

TOOLSETS = ("discover", "config", "run", "observe", "onboard", "report")
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
    named = [word.strip() for word in environment.get("OXRL_MCP_TOOLSETS", "").split(",") if word.strip()]
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
    )


def current_policy() -> Policy:
    """The policy of this process."""
    return read_policy(os.environ)


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
