"""The operations that command line, MCP server and Python callers share. Each returns a view or raises OxrlError.

Nothing here trains: a launch starts a detached supervisor, everything else reads or signals through the run directory.
`home` is the folder of all runs; None means $OXRL_HOME or ~/.oxrl.
"""

from __future__ import annotations

from oxrl_core.api.configs import validate_config
from oxrl_core.api.records import check_environment, get_metrics, read_logs
from oxrl_core.api.runs import get_run, launch_run, list_runs, stop_run
from oxrl_core.api.watching import Until, follow, watch_run

__all__ = [
    "Until",
    "check_environment",
    "follow",
    "get_metrics",
    "get_run",
    "launch_run",
    "list_runs",
    "read_logs",
    "stop_run",
    "validate_config",
    "watch_run",
]
