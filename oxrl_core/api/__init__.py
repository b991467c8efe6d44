"""The operations that command line, MCP server and Python callers share. Each returns a view or raises OxrlError.

Nothing here trains: a launch starts a detached supervisor, everything else reads or signals through the run directory.
`home` is the folder of all runs; None means $OXRL_HOME or ~/.oxrl.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Each operation is loaded when it is first used: who lists runs needs neither the configuration nor the diagnosis.
if TYPE_CHECKING:
    from oxrl_core.api.configs import validate_config
    from oxrl_core.api.diagnosis import diagnose_run
    from oxrl_core.api.evaluation import evaluate_run, get_evaluation, score
    from oxrl_core.api.listing import adopt_orphans, adopt_run, list_runs, rebuild_index
    from oxrl_core.api.records import check_environment, get_metrics, read_logs
    from oxrl_core.api.replay import fork_run, get_replay, replay_run
    from oxrl_core.api.reports import compare_runs, write_report
    from oxrl_core.api.rollouts import list_rollouts, show_rollout
    from oxrl_core.api.runs import get_run, launch_run, resume_run, stop_run
    from oxrl_core.api.sweep import list_sweeps, plan_sweep, run_sweep, show_sweep
    from oxrl_core.api.watching import Until, follow, watch_run

__all__ = [
    "Until",
    "adopt_orphans",
    "adopt_run",
    "check_environment",
    "compare_runs",
    "diagnose_run",
    "evaluate_run",
    "follow",
    "fork_run",
    "get_evaluation",
    "get_metrics",
    "get_replay",
    "get_run",
    "launch_run",
    "list_rollouts",
    "list_runs",
    "list_sweeps",
    "plan_sweep",
    "read_logs",
    "rebuild_index",
    "replay_run",
    "resume_run",
    "run_sweep",
    "score",
    "show_rollout",
    "show_sweep",
    "stop_run",
    "validate_config",
    "watch_run",
    "write_report",
]

_MODULES = {
    "configs": ("validate_config",),
    "diagnosis": ("diagnose_run",),
    "evaluation": ("evaluate_run", "get_evaluation", "score"),
    "listing": ("adopt_orphans", "adopt_run", "list_runs", "rebuild_index"),
    "records": ("check_environment", "get_metrics", "read_logs"),
    "replay": ("fork_run", "get_replay", "replay_run"),
    "reports": ("compare_runs", "write_report"),
    "rollouts": ("list_rollouts", "show_rollout"),
    "runs": ("get_run", "launch_run", "resume_run", "stop_run"),
    "sweep": ("list_sweeps", "plan_sweep", "run_sweep", "show_sweep"),
    "watching": ("Until", "follow", "watch_run"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return __all__
