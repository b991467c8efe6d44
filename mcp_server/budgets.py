"""What a launch may cost: GPU-hours of one run, runs at the same time, and when a person is asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import AcceptedElicitation, Context, DeclinedElicitation, Elicit
from pydantic import BaseModel, Field

from mcp_server.policy import current_policy
from mcp_server.rates import count_launch, forget_launch
from oxrl_core.errors import ConfigError, MachineError, OxrlError

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


def check_budget(hours: float, next_step: str) -> None:
    """Raises where something whose budget cannot be set any more may use more GPU-hours than this server allows."""
    limit = current_policy().max_gpu_hours
    if limit is not None and hours > limit:
        amount = f"{hours:g} GPU-hours" if math.isfinite(hours) else "GPU-hours without a limit"
        raise ConfigError(f"it may use {amount}, this server allows {limit:g}", "OXRL_MCP_MAX_GPU_HOURS", next_step)


def hours_on_all_gpus(hours: float) -> float:
    """The most GPU-hours of what may use every GPU of this machine for so long; 0 hours: without an end."""
    from oxrl_core.config.machine import find_gpus

    gpus = len(find_gpus())
    return 0.0 if not gpus else gpus * hours if hours else math.inf


@contextmanager
def room_for_a_run() -> Generator[None]:
    """A span in which one run may be started: of this hour's launches, and of the places that there are."""
    from oxrl_core.runs.rundir import oxrl_home

    policy, home = current_policy(), oxrl_home()
    home.mkdir(parents=True, exist_ok=True)
    with _place(policy.max_concurrent_runs, home):
        counted = count_launch(home, policy.launches_per_hour)
        try:
            yield
        except BaseException:
            forget_launch(home, counted)  # nothing was started
            raise


@contextmanager
def _place(limit: int | None, home: Path) -> Generator[None]:
    """A span in which nobody else takes a place: two servers on one home cannot both take the last one."""
    if limit is None:
        yield
        return
    from oxrl_core.runs.records import file_lock

    with file_lock(home / ".launches.lock", LOCK_SECONDS):
        _check_place(limit, home)
        yield


def _check_place(limit: int, home: Path) -> None:
    from oxrl_core import api

    active = api.list_runs(state="active", limit=limit + 1, home=home).runs
    if len(active) >= limit:
        names = ", ".join(view.run_id for view in active[:5])
        raise MachineError(
            f"{len(active)} runs are active ({names}), this server allows {limit} at a time",
            "OXRL_MCP_MAX_CONCURRENT_RUNS",
            "wait for one with watch_run, or stop one with stop_run",
        )


def ask_if_costly(context: Context[Any, Any], hours: Callable[[], float], what: str) -> Approval | Elicit[Approval]:
    """The question to the person at the host where it may use many GPU-hours, else the answer that none is needed.

    What is wrong with the call is not said here: the tool says it.
    """
    limit = current_policy().ask_above_gpu_hours
    if limit is None:
        return Approval(approved=True)
    try:
        most = hours()
    except OxrlError:
        return Approval(approved=True)
    return _question(context, most, what) if most > limit else Approval(approved=True)


def _question(context: Context[Any, Any], hours: float, what: str) -> Approval | Elicit[Approval]:
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
