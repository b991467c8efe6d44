"""What a run recorded of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oxrl_core.runs import launch
from oxrl_core.runs.analysis import rollouts
from oxrl_core.runs.analysis.rollouts import RolloutsView, SampleView
from oxrl_core.runs.rundir import oxrl_home


def list_rollouts(
    run_id: str,
    step: str = "",
    *,
    where: str = "",
    sort: str = "",
    ascending: bool = False,
    limit: int = 20,
    offset: int = 0,
    columns: Sequence[str] = (),
    home: Path | None = None,
) -> RolloutsView:
    """Recorded rollouts that meet the condition (`reward=0 and finish_reason=length`), the largest `sort` first.

    The first `offset` of them are passed by. `step`: N, N:M, `all`, or empty for the last one recorded.
    """
    run = launch.find_run(home or oxrl_home(), run_id)
    return rollouts.list_rollouts(
        run, step, where, sort, ascending=ascending, limit=limit, offset=offset, columns=columns
    )


def show_rollout(run_id: str, sample: str, step: str = "", *, home: Path | None = None) -> SampleView:
    """One rollout token by token: STEP/PROMPT_ID/SAMPLE, or PROMPT_ID/SAMPLE of the step."""
    return rollouts.show_rollout(launch.find_run(home or oxrl_home(), run_id), sample, step)
