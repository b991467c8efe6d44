"""What a launch may cost: GPU-hours of one run, runs at the same time, and when a person is asked."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import AcceptedElicitation, Context, DeclinedElicitation, Elicit
from pydantic import BaseModel, Field

from mcp_server.policy import current_policy
from oxrl_core.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config

LOCK_SECONDS = 60.0
BUDGET_KEY = "run.max_gpu_hours"


class Approval(BaseModel):
    """A person's word on a launch."""

    approved: bool = Field(description="Launch it")


def gpus_of(config: Config) -> int:
    """The GPUs that a run would hold on this machine."""
    from oxrl_core.config.check import check_config
    from oxrl_core.runs.rundir import oxrl_home

    return check_config(config, home=oxrl_home()).gpus


def gpu_hours(config: Config) -> float:
    """The most GPU-hours that a run can use, by its own budgets; infinite where it has none."""
    gpus = gpus_of(config)
    if not gpus:
        return 0.0
    by_time = gpus * config.run.max_hours if config.run.max_hours is not None else math.inf
    return min(by_time, config.run.max_gpu_hours if config.run.max_gpu_hours is not None else math.inf)


def within_budget(config: Config, overrides: Sequence[str]) -> list[str]:
    """The overrides, with the server's limit of GPU-hours where the run has none of its own; raises above the limit."""
    limit = current_policy().max_gpu_hours
    if limit is None:
        return list(overrides)
    hours = gpu_hours(config)
    if hours <= limit:
        return list(overrides)
    if math.isfinite(hours):
        raise ConfigError(
            f"the run may use {hours:g} GPU-hours, this server allows {limit:g} (OXRL_MCP_MAX_GPU_HOURS)",
            BUDGET_KEY,
            f"add the override {BUDGET_KEY}={limit:g}, or a smaller one",
        )
    return [*overrides, f"{BUDGET_KEY}={limit:g}"]


@contextmanager
def room_for_a_run() -> Generator[None]:
    """A span in which one run may be started: two servers on one home cannot both take the last place."""
    limit = current_policy().max_concurrent_runs
    if limit is None:
        yield
        return
    from oxrl_core import api
    from oxrl_core.runs.records import file_lock
    from oxrl_core.runs.rundir import oxrl_home

    home = oxrl_home()
    home.mkdir(parents=True, exist_ok=True)
    with file_lock(home / ".launches.lock", LOCK_SECONDS):
        active = api.list_runs(state="active", limit=limit + 1, home=home).runs
        if len(active) >= limit:
            names = ", ".join(view.run_id for view in active[:5])
            raise MachineError(
                f"{len(active)} runs are active ({names}), this server allows {limit} at a time",
                "OXRL_MCP_MAX_CONCURRENT_RUNS",
                "wait for one with watch_run, or stop one with stop_run",
            )
        yield


def ask_if_costly(context: Context[Any, Any], config: Config, what: str) -> Approval | Elicit[Approval]:
    """The question to the person at the host where a launch is costly, else the answer that none is needed."""
    limit = current_policy().ask_above_gpu_hours
    if limit is None:
        return Approval(approved=True)
    hours = gpu_hours(config)
    if hours <= limit:
        return Approval(approved=True)
    can_ask = context.client_capabilities
    if can_ask is None or can_ask.elicitation is None:
        return Approval(approved=False)
    amount = f"up to {hours:g} GPU-hours" if math.isfinite(hours) else "GPU-hours without a limit"
    return Elicit(f"{what} may use {amount} on this machine. Go on?", Approval)


def check_approved(outcome: Any) -> None:
    """Raises where nobody has agreed to the cost."""
    if isinstance(outcome, AcceptedElicitation) and outcome.data.approved:  # pyright: ignore[reportUnknownMemberType]
        return
    limit = current_policy().ask_above_gpu_hours
    said = "the person at the host declined" if isinstance(outcome, DeclinedElicitation) else "nobody has approved"
    raise ConfigError(
        f"{said} this launch, which may use more than {limit} GPU-hours",
        "OXRL_MCP_ASK_ABOVE_GPU_HOURS",
        f"add the override {BUDGET_KEY}={limit:g} or a smaller one; or let a person launch it or raise the limit",
    )
