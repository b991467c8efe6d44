"""Going on with runs, repeating parts of them, and evaluating what they made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import Context, Elicit, ElicitationResult, Resolve
from pydantic import Field

from mcp_server.budgets import (
    Approval,
    ask_if_costly,
    check_approved,
    check_budget,
    gpu_hours,
    room_for_a_run,
    within_budget,
)
from mcp_server.catalogue import LAUNCH, tool
from mcp_server.tools.arguments import LOG, DryRun, Key, Overrides, PlanHash, RunId
from mcp_server.tools.operate import tidy
from oxrl_core.errors import ConfigError
from oxrl_core.runs.views import LaunchResult

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config

FORK_IT = "fork it with the override run.max_gpu_hours; or a person runs it"
Mode = Literal["resume", "fork", "replay"]


def approve_rerun(
    context: Context[Any, Any], run_id: str, mode: Mode, overrides: list[str], dry_run: bool
) -> Approval | Elicit[Approval]:
    """Asks the person at the host about a costly rerun."""

    def hours() -> float:
        config = _config_of(run_id, overrides)
        return gpu_hours(_config_of(run_id, within_budget(config, overrides)) if mode == "fork" else config)

    return Approval(approved=True) if dry_run else ask_if_costly(context, hours, f"The {mode} of {run_id}")


def _config_of(run_id: str, overrides: list[str]) -> Any:
    """The configuration of the run with the overrides."""
    from oxrl_core.config.load import load_config
    from oxrl_core.runs import launch
    from oxrl_core.runs.rundir import oxrl_home

    before = launch.find_run(oxrl_home(), run_id).config()
    return load_config(before.model_dump(mode="json"), overrides).config if overrides else before


@tool(title="Go on with a run, or repeat a step", hints=LAUNCH, ask_less="call get_run with the run_id", link=LOG)
def rerun(
    run_id: RunId,
    mode: Annotated[
        Mode,
        Field(description="resume in place; fork: a new run from `step`; replay: repeat `step`"),
    ],
    approval: Annotated[ElicitationResult[Approval], Resolve(approve_rerun)],
    step: Annotated[int, Field(description="-1: the last", ge=-1)] = -1,
    overrides: Overrides = [],  # noqa: B006
    key: Key = "",
    dry_run: DryRun = False,
    plan_hash: PlanHash = "",
) -> LaunchResult:
    """Resume a stopped, failed or lost run from its newest checkpoint; fork one with a diagnosis's overrides; or replay
    a step and compare every number (with overrides: what would have been). Then watch_run."""
    from mcp_server.confinement import check
    from mcp_server.policy import current_policy
    from oxrl_core import api

    if mode == "resume":
        if overrides or dry_run or plan_hash:
            raise ConfigError("a resumed run goes on as it was", "mode", "leave overrides and dry_run out, or fork it")
        check_budget(gpu_hours(_config_of(run_id, [])), FORK_IT)
        check_approved(approval)
        view = api.get_run(run_id)
        if not view.has_ended:
            return LaunchResult(**view.model_dump())
        with room_for_a_run():
            return tidy(api.resume_run(run_id))
    at = step if step >= 0 else api.get_run(run_id).step
    config = _config_of(run_id, overrides) if mode == "replay" else _fork_config(run_id, overrides)
    check(config, current_policy())
    if mode == "replay":
        if dry_run or plan_hash or key:
            raise ConfigError("a replay has no plan and no key", "mode", "leave dry_run, plan_hash and key out")
        check_budget(gpu_hours(config), FORK_IT)
        check_approved(approval)
        with room_for_a_run():
            return tidy(api.replay_run(run_id, at, overrides))
    bounded = within_budget(config, overrides)
    if dry_run:
        return tidy(api.fork_run(run_id, at, bounded, dry_run=True))
    check_approved(approval)
    with room_for_a_run():
        return tidy(api.fork_run(run_id, at, bounded, key=key, plan_hash=plan_hash))


def _fork_config(run_id: str, overrides: list[str]) -> Any:
    from oxrl_core.api.replay import changed_config
    from oxrl_core.runs import launch
    from oxrl_core.runs.rundir import oxrl_home

    return changed_config(launch.find_run(oxrl_home(), run_id), overrides).config


def approve_evaluation(
    context: Context[Any, Any],
    target: str,
    step: int,
    dataset: str,
    split: str,
    reward: str,
    overrides: list[str],
) -> Approval | Elicit[Approval]:
    """Asks the person at the host about a costly evaluation."""

    def hours() -> float:
        config = _evaluation_config(target, step, dataset, split, reward, overrides)
        bounded = within_budget(config, overrides)
        return gpu_hours(_evaluation_config(target, step, dataset, split, reward, bounded))

    return ask_if_costly(context, hours, f"The evaluation of {target[:80]}")


def _evaluation_config(
    target: str, step: int, dataset: str, split: str, reward: str, overrides: Sequence[str]
) -> Config:
    """The configuration that an evaluation would have."""
    from oxrl_core import api
    from oxrl_core.config.load import load_config
    from oxrl_core.config.yaml_text import read_mapping

    planned = api.evaluate_run(
        target, dataset=dataset, split=split, reward=reward, step=step, overrides=overrides, dry_run=True
    )
    text = planned.plan.config_yaml if planned.plan is not None else ""
    return load_config(read_mapping(text, "the evaluation").mapping).config


@tool(title="Evaluate a model", hints=LAUNCH, ask_less="call get_run with the run_id", link=LOG)
def evaluate_run(
    target: Annotated[
        str,
        Field(
            description="Run, hub id, folder, miniature:chars",
            min_length=1,
            max_length=300,
        ),
    ],
    approval: Annotated[ElicitationResult[Approval], Resolve(approve_evaluation)],
    step: Annotated[int, Field(description="A checkpoint; -1: final model", ge=-1)] = -1,
    dataset: Annotated[str, Field(description="Empty: the run's own", max_length=300)] = "",
    split: Annotated[str, Field(description="e.g. eval", max_length=60)] = "",
    reward: Annotated[str, Field(description="Empty: the run's own", max_length=200)] = "",
    limit: Annotated[int, Field(description="Rows", ge=1, le=100_000)] = 256,
    samples: Annotated[int, Field(description="Of each prompt", ge=1, le=64)] = 1,
    temperature: Annotated[float, Field(description="0: greedy", ge=0, le=5)] = 0,
    overrides: Overrides = [],  # noqa: B006
    key: Key = "",
) -> LaunchResult:
    """Score a model on held-out rows, as a run of kind evaluate. Then watch_run; get_run has mean, standard error and
    accuracy, query_rollouts every completion."""
    from mcp_server.confinement import check_evaluation
    from oxrl_core import api

    check_evaluation(target, dataset, reward, overrides)
    bounded = within_budget(_evaluation_config(target, step, dataset, split, reward, overrides), overrides)
    check_approved(approval)
    with room_for_a_run():
        launched = api.evaluate_run(
            target,
            dataset=dataset,
            split=split,
            reward=reward,
            limit=limit,
            samples=samples,
            temperature=temperature,
            step=step,
            overrides=bounded,
            key=key,
        )
    return tidy(launched)
