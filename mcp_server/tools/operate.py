"""Runs: start, find, follow, stop."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, Elicit, ElicitationResult, Resolve
from pydantic import Field

from mcp_server.answers import Settled
from mcp_server.budgets import Approval, ask_if_costly, check_approved, gpu_hours, room_for_a_run, within_budget
from mcp_server.catalogue import LAUNCH, READ, STOP, tool
from mcp_server.hosts import longest_wait
from mcp_server.tools.arguments import LOG, ConfigText, DryRun, Key, Overrides, PlanHash, RunId, cut, known_config
from mcp_server.tools.metric_names import MAIN_METRICS
from oxrl_core.runs.views import LaunchResult, RunList, RunView

SECONDS_BETWEEN_REPORTS = 2.0
MOST_ALERTS, MOST_LOG_LINES, LONGEST_MESSAGE = 5, 8, 300
MOST_KEPT = 128  # runs that are kept as they are listed
BRIEF_METRICS = frozenset(MAIN_METRICS)
LISTED_METRICS = frozenset({"reward/mean", "eval/reward", "eval/accuracy", "loss", "preference/accuracy"})


class RunDetail(RunView):
    """One run now, and what it came to."""

    result: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Of a replay or an evaluation that has finished, or of an onboarding: every criterion as it was met or not."""
    config_yaml: str = ""
    report: str = ""
    """An HTML file with all that is known of the run, for a person."""


def brief(view: RunView) -> dict[str, Any]:
    """The fields of a view that are cut to what is worth its tokens."""
    error = view.error
    if error is not None:
        error = error.model_copy(update={"what": cut(error.what, 1000), "next": cut(error.next, 500)})
    return {
        "metrics": {name: value for name, value in view.metrics.items() if name in BRIEF_METRICS},
        "alerts": [
            one.model_copy(update={"message": cut(one.message, LONGEST_MESSAGE)}) for one in view.alerts[-MOST_ALERTS:]
        ],
        "log_tail": [cut(line, LONGEST_MESSAGE) for line in view.log_tail[-MOST_LOG_LINES:]],
        "error": error,
    }


def approve_launch(
    context: Context[Any, Any], config: str, overrides: list[str], dry_run: bool
) -> Approval | Elicit[Approval]:
    """Asks the person at the host about a costly launch."""
    from oxrl_core.api.configs import load_checked

    def hours() -> float:
        source = known_config(config)
        return gpu_hours(load_checked(source, within_budget(load_checked(source, overrides).config, overrides)).config)

    return Approval(approved=True) if dry_run else ask_if_costly(context, hours, "The run")


@tool(title="Launch a run", hints=LAUNCH, ask_less="call get_run with the run_id", core=True, link=LOG)
def launch_run(
    config: ConfigText,
    approval: Annotated[ElicitationResult[Approval], Resolve(approve_launch)],
    overrides: Overrides = [],  # noqa: B006  (the SDK reads the default and nothing changes it)
    key: Key = "",
    dry_run: DryRun = False,
    plan_hash: PlanHash = "",
) -> LaunchResult:
    """Start training in the background and return its run_id at once, after the checks of validate_config. It goes on
    if you disconnect; follow it with watch_run. Budgets: overrides run.max_hours=2, run.max_gpu_hours=4."""
    from mcp_server.confinement import check_config
    from oxrl_core import api
    from oxrl_core.api.configs import load_checked

    source = known_config(config)
    check_config(source, overrides)
    bounded = within_budget(load_checked(source, overrides).config, overrides)
    if dry_run:
        launched = api.launch_run(source, bounded, dry_run=True)
    else:
        check_approved(approval)
        launched = _known(source, bounded, key)
        if launched is None:
            with room_for_a_run():
                launched = api.launch_run(source, bounded, key=key, plan_hash=plan_hash)
    return tidy(launched)


def _known(source: str, overrides: list[str], key: str) -> LaunchResult | None:
    """The run that the key launched before: asking for it again takes no place."""
    if not key:
        return None
    from oxrl_core import api
    from oxrl_core.api.configs import load_checked
    from oxrl_core.config.load import config_hash
    from oxrl_core.runs import launch
    from oxrl_core.runs.rundir import oxrl_home

    run = launch.find_by_key(oxrl_home(), key, config_hash(load_checked(source, overrides).config))
    if run is None or not (run.path / "status.json").exists():
        return None
    return LaunchResult(**api.get_run(run.run_id).model_dump())


def tidy(launched: LaunchResult) -> LaunchResult:
    """A launch as it is shown: the plan without the text of its configuration."""
    changes = brief(launched)
    if launched.plan is not None:
        changes["plan"] = launched.plan.model_copy(update={"config_yaml": ""})
    return launched.model_copy(update=changes)


@tool(title="List runs", hints=READ, ask_less="a smaller limit", toolset="observe")
def list_runs(
    state: Annotated[
        Literal["any", "active", "stalled", "finished", "failed", "stopped", "needs_input", "lost", "orphaned"],
        Field(description="active: not ended"),
    ] = "any",
    kind: Annotated[str, Field(description="rl, sft, evaluate, ...", max_length=40)] = "",
    name: Annotated[str, Field(description="Part of its name", max_length=120)] = "",
    since: Annotated[str, Field(description="24h, 7d, 2026-11-21", max_length=40)] = "",
    limit: Annotated[int, Field(description="Most", ge=1, le=50)] = 10,
    cursor: Annotated[str, Field(description="next_cursor, for older runs", max_length=120)] = "",
) -> RunList:
    """Runs of this machine, newest first, with state, step and metrics; those of earlier conversations too."""
    from oxrl_core import api

    wanted = "" if state == "any" else state
    found = api.list_runs(state=wanted, kind=kind, name=name, since=since, limit=limit, cursor=cursor)
    return found.model_copy(update={"runs": [_listed(view) for view in found.runs]})


class ListedRun(RunView, Settled):
    """One run in a list, without what is too much there."""


_listed_before: dict[str, tuple[RunView, ListedRun]] = {}  # by run, with the view that it was made of


def _listed(view: RunView) -> ListedRun:
    before = _listed_before.get(view.run_id)
    if before is not None and before[0] is view:  # a run that ended is given as the same object again
        return before[1]
    metrics = {name: value for name, value in view.metrics.items() if name in LISTED_METRICS}
    changes: dict[str, Any] = {"metrics": metrics, "log_tail": [], "path": "", "model": "", "config_hash": ""}
    changes |= {"elapsed_seconds": None, "exit_code": None, "ended_at": "", "progress": None}
    if view.error is not None:
        changes["error"] = view.error.model_copy(update={"what": cut(view.error.what, 200), "next": "", "where": ""})
    listed = ListedRun.model_construct(**{**view.__dict__, **changes})
    if len(_listed_before) >= MOST_KEPT:
        _listed_before.clear()
    _listed_before[view.run_id] = (view, listed)
    return listed


@tool(title="Get a run", hints=READ, ask_less="detail='brief'", core=True, toolset="observe")
def get_run(
    run_id: RunId,
    detail: Annotated[
        Literal["brief", "full", "report"],
        Field(description="full: all metrics, config; report: also an HTML file"),
    ] = "brief",
) -> RunDetail:
    """A run now: state, step, seconds left, newest metrics, alerts, error with its next step, the result of an
    evaluation, replay or onboarding. To wait, use watch_run."""
    from oxrl_core import api
    from oxrl_core.runs.rundir import RunDir

    view = api.get_run(run_id)
    run = RunDir(view.path)
    changes: dict[str, Any] = {} if detail == "full" else brief(view)
    if detail == "report":
        changes["report"] = api.write_report(view.run_id).path
    if detail == "full":
        changes["config_yaml"] = (run.path / "config.yaml").read_text(encoding="utf-8")[:12_000]
    result: dict[str, Any] = {}
    if view.state == "finished" and view.kind == "evaluate":
        result = api.get_evaluation(view.run_id).model_dump(mode="json", exclude={"run_id", "state", "path"})
        for sample in result["samples"]:
            sample.update({name: cut(sample[name], 200) for name in ("prompt", "completion", "answer")})
    elif view.state == "finished" and view.kind == "replay":
        result = api.get_replay(view.run_id).model_dump(mode="json", exclude={"run_id", "state", "path"})
        result["differences"] = result["differences"][:5]
    elif view.kind == "onboard":
        from swarm.onboard.work import verification_of

        verification = verification_of(run)
        if verification is not None:
            result = verification.model_dump(mode="json")
            changes["next"] = "generate_config" if verification.verified else view.next
    # The result has said its own next step where it has one.
    return RunDetail(**{**view.model_dump(), **{k: _plain(v) for k, v in changes.items()}}, result=result)


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value


@tool(title="Watch a run", hints=READ, ask_less="call get_metrics with names", core=True, toolset="observe")
async def watch_run(
    context: Context[Any, Any],
    run_id: RunId,
    until: Annotated[Literal["progress", "end"], Field(description="progress: also at a new step")] = "end",
    wait_seconds: Annotated[
        float,
        Field(description="Cut to what this host allows", ge=0, le=3600),
    ] = 45,
    cursor: Annotated[str, Field(description="Of the last view: nothing is missed", max_length=300)] = "",
) -> RunView:
    """Wait until a run ends, raises an alert or (until='progress') moves; returns the view of get_run. No error when
    nothing happened: call again with its cursor. For long runs: until='end' and a long wait."""
    from oxrl_core import api

    parameters = context.session.client_params
    seconds = min(wait_seconds, longest_wait(parameters.client_info.name if parameters is not None else ""))
    reporter = asyncio.ensure_future(_report_steps(context, run_id, seconds))
    try:
        view = await api.watch_run(run_id, until=until, wait_seconds=seconds, cursor=cursor)
        return view.model_copy(update=brief(view))
    finally:
        reporter.cancel()
        await asyncio.gather(reporter, return_exceptions=True)


async def _report_steps(context: Context[Any, Any], run_id: str, seconds: float) -> None:
    """Tells the host every two seconds where the run is: some hosts show it, and some end calls that are silent."""
    from oxrl_core import api

    began = time.monotonic()
    while True:
        await asyncio.sleep(SECONDS_BETWEEN_REPORTS)
        view = await asyncio.to_thread(api.get_run, run_id)
        reward = view.metrics.get("reward/mean")
        message = f"{view.state}: step {view.step}/{view.total_steps or '?'}" + (
            f", reward {reward:.3f}" if reward is not None else ""
        )
        # The wait and not the step is what must grow with every notification.
        await context.report_progress(time.monotonic() - began, seconds, message)


@tool(title="Stop a run", hints=STOP, ask_less="call get_run")
def stop_run(
    run_id: RunId,
    reason: Annotated[str, Field(description="Kept with the run", max_length=300)] = "",
    force: Annotated[bool, Field(description="No time for a checkpoint")] = False,
) -> RunView:
    """Stop a run: it saves a checkpoint and leaves; what is left is killed. rerun(mode='resume') goes on later. One
    that has ended is left as it is."""
    from oxrl_core import api

    view = api.stop_run(run_id, reason=reason, force=force)
    return view.model_copy(update=brief(view))
