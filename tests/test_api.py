"""The shared operations, on runs of a small driver script and on real configurations."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxrl_core import api
from oxrl_core.errors import ConfigError, NotFoundError, UserError
from oxrl_core.runs import launch, process
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

CONFIG = """
run: {name: tiny, seed: 1, backend: local}
model: {path: "miniature:chars"}
data: {train: copy3}
train: {steps: 2, prompts_per_step: 2}
rollout: {group_size: 2, max_completion_tokens: 4, engine: transformers}
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    for run_id in launch.run_ids(home):
        run = RunDir(home / "runs" / run_id)
        supervisor = run.status().supervisor
        if supervisor and supervisor.pid != os.getpid():
            launch.stop(run, "end of the test", grace=0.0)


def living_run(home: Path, name: str = "test") -> RunDir:
    """A run whose record says that it runs, with this process as its supervisor; the test plays the driver."""
    run = RunDir.create_from_parts(home, name, "", {"kind": "rl", "config_hash": "0" * 12})
    me = process.identify(os.getpid())
    assert me
    write_json(run.path / "status.json", {"state": "running", "supervisor": me.as_dict(), "started_at": time.time()})
    return run


def ended(run: RunDir, state: str = "finished") -> None:
    write_json(run.path / "status.json", {"state": state, "started_at": 1.0, "ended_at": 2.0, "exit_code": 0})


def later(seconds: float, action: object, *arguments: object) -> threading.Timer:
    timer = threading.Timer(seconds, action, arguments)  # type: ignore[arg-type]  # any callable will do
    timer.start()
    return timer


def watch(run: RunDir, home: Path, **options: object) -> tuple[api.RunView, float]:
    began = time.monotonic()
    view = asyncio.run(api.watch_run(run.run_id, home=home, **options))  # type: ignore[arg-type]
    return view, time.monotonic() - began


def test_a_view_tells_progress_and_what_to_do_next(home: Path) -> None:
    run = living_run(home)
    assert api.get_run("latest", home=home).state == "starting"
    run.write_progress("train", 1, 4)
    time.sleep(0.05)
    run.write_progress("train", 2, 4, {"reward/mean": 0.5})
    run.append_event("warning", "slow", "a step took long")
    view = api.get_run(run.run_id, home=home)
    assert (view.state, view.phase, view.step, view.progress, view.next) == ("running", "train", 2, 0.5, "watch_run")
    assert view.eta_seconds and view.eta_seconds > 0
    assert view.metrics == {"reward/mean": 0.5}
    assert [(alert.level, alert.code) for alert in view.alerts] == [("warning", "slow")]
    ended(run)
    assert api.get_run(run.run_id, home=home).next == "get_metrics"


def test_watching_without_news_is_no_error_and_takes_the_time_it_was_given(home: Path) -> None:
    run = living_run(home)
    view, seconds = watch(run, home, wait_seconds=0.6)
    assert view.state == "starting" and 0.5 < seconds < 3 and 0.5 < view.waited_seconds < 3


def test_watching_wakes_up_at_a_step_an_alert_and_the_end(home: Path) -> None:
    run = living_run(home)
    later(0.3, run.write_progress, "train", 1, 3)
    view, seconds = watch(run, home, until="progress", wait_seconds=30)
    assert view.step == 1 and seconds < 5
    later(0.3, run.write_progress, "train", 2, 3)
    later(0.8, run.append_event, "warning", "slow", "a step took long")
    view, seconds = watch(run, home, until="end", wait_seconds=30)
    assert (view.step, [alert.code for alert in view.alerts]) == (2, ["slow"]) and seconds > 0.7
    later(0.3, ended, run)
    view, seconds = watch(run, home, until="end", wait_seconds=30)
    assert view.state == "finished" and seconds < 5
    assert watch(run, home, until="end", wait_seconds=30)[1] < 0.5


def test_with_a_cursor_nothing_is_missed_between_two_watches(home: Path) -> None:
    run = living_run(home)
    cursor = api.get_run(run.run_id, home=home).cursor
    run.append_event("error", "nan", "the loss is not finite")
    run.append_event("info", "saved", "no alert")
    view, seconds = watch(run, home, until="end", wait_seconds=30, cursor=cursor)
    assert seconds < 1 and [alert.code for alert in view.alerts] == ["nan"]
    view, seconds = watch(run, home, until="end", wait_seconds=0.4, cursor=view.cursor)
    assert seconds >= 0.4 and view.alerts == []
    with pytest.raises(ConfigError, match="not a cursor"):
        watch(run, home, cursor="nonsense")


def test_a_watch_can_be_cancelled(home: Path) -> None:
    run = living_run(home)

    async def cancel() -> None:
        task = asyncio.create_task(api.watch_run(run.run_id, wait_seconds=60, home=home))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)

    asyncio.run(cancel())


def test_following_yields_changes_and_ends_with_the_run(home: Path) -> None:
    run = living_run(home)
    later(0.4, run.write_progress, "train", 1, 3)
    later(0.8, ended, run)
    views = list(api.follow(run.run_id, home=home))
    assert views[0].step == 0 and any(view.step == 1 for view in views)
    assert views[-1].state == "finished" and [view.has_ended for view in views].count(True) == 1


def test_a_thousand_runs_are_listed_in_well_under_a_second(home: Path) -> None:
    for index in range(1000):
        run = RunDir(home / "runs" / f"run{index % 10}-261121-100000-{index:04x}")
        run.path.mkdir(parents=True)
        write_json(run.path / "spec.json", {"kind": "rl", "name": f"run{index % 10}", "created_at": time.time()})
        run.write_progress("train", index, 1000, {"loss": 1.0})
        if index % 50:
            ended(run)
    began = time.process_time()
    everything = api.list_runs(limit=2000, home=home)
    seconds = time.process_time() - began
    assert everything.total == len(everything.runs) == 1000 and everything.next_cursor == ""
    assert seconds < 1.0, f"{seconds:.2f} s"
    began = time.process_time()
    page = api.list_runs(limit=20, home=home)
    assert time.process_time() - began < 0.2
    assert [run.run_id for run in page.runs] == [run.run_id for run in everything.runs[:20]]
    following = api.list_runs(limit=20, cursor=page.next_cursor, home=home)
    assert [run.run_id for run in following.runs] == [run.run_id for run in everything.runs[20:40]]
    assert len(api.list_runs(state="active", limit=2000, home=home).runs) == 20
    assert len(api.list_runs(state="finished", limit=2000, home=home).runs) == 980


def test_metrics_are_a_table_with_a_summary_of_all_rows(home: Path) -> None:
    run = living_run(home)
    for step in range(1, 101):
        run.append_metrics(
            {"step": step, "loss": 100.0 - step, "reward/mean": float("nan") if step == 51 else step / 100}
        )
    run.append_metrics({"step": 100, "eval/reward": 0.8})
    view = api.get_metrics(run.run_id, ["reward/mean", "eval/reward"], max_points=3, home=home)
    assert view.columns == ["step", "reward/mean", "eval/reward"]
    assert view.rows == [[1, 0.01, None], [51, None, None], [100, 1.0, 0.8]]
    assert view.total_rows == 100
    summary = view.summary["reward/mean"]
    assert (summary.first, summary.last, summary.min, summary.max) == (0.01, 1.0, 0.01, 1.0)
    assert api.get_metrics(run.run_id, home=home).columns == ["step", "loss", "reward/mean", "eval/reward"]
    with pytest.raises(NotFoundError, match="reward/mean"):
        api.get_metrics(run.run_id, ["reward/meen"], home=home)


def test_logs_carry_their_names_and_a_cursor(home: Path) -> None:
    run = living_run(home)
    (run.logs / "driver.log").write_text("a\nb\n")
    view = api.read_logs(run.run_id, lines=1, home=home)
    assert (view.lines, view.cursor, view.names) == (["b"], 4, ["driver"])


def test_a_configuration_that_cannot_be_read_is_a_report_not_an_exception(home: Path) -> None:
    report = api.validate_config(CONFIG + "trian: {lr: 1}\n", home=home)
    assert not report.ok and "train" in report.problems[0].what + report.problems[0].next
    assert not api.validate_config("no-such-recipe", home=home).ok
    assert not api.validate_config("a: [", home=home).ok
    assert not api.validate_config("x" * 300_000, home=home).ok


def test_a_dry_run_plans_and_creates_nothing(home: Path) -> None:
    plan = api.launch_run(CONFIG, ["train.steps=3"], dry_run=True, home=home)
    assert (plan.state, plan.created, plan.total_steps, plan.run_id) == ("planned", False, 3, "")
    assert plan.plan and plan.plan.ok and plan.plan.config_hash and "steps: 3" in plan.plan.config_yaml
    assert not (home / "runs").exists()


def test_a_configuration_that_cannot_run_here_is_refused_before_anything_is_created(home: Path) -> None:
    with pytest.raises(UserError, match="no-such-rows"):
        api.launch_run(CONFIG, ["data.train=no-such-rows.jsonl"], home=home)
    assert launch.run_ids(home) == []


def test_the_same_key_launches_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = api.launch_run(CONFIG, key="k1", home=home)
    assert first.created and first.state in ("starting", "running") and first.next == "watch_run"
    again = api.launch_run(CONFIG, key="k1", home=home)
    assert (again.run_id, again.created) == (first.run_id, False)
    with pytest.raises(ConfigError, match=first.run_id):
        api.launch_run(CONFIG, ["run.seed=2"], key="k1", home=home)
    stopped = api.stop_run(first.run_id, reason="seen enough", force=True, home=home)
    assert (stopped.state, stopped.stop_reason) == ("stopped", "seen enough")
    assert process.members_by_run().get(first.run_id, []) == []
    spec = RunDir(first.path).spec()
    assert spec["config_hash"] == first.config_hash and RunDir(first.path).config().run.name == "tiny"


def test_importing_the_operations_loads_nothing_heavy() -> None:
    code = "import sys, oxrl_core.api; print(' '.join(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    loaded = {name.split(".")[0] for name in output.split()}
    assert not loaded & {"torch", "ray", "vllm", "deepspeed", "transformers", "numpy", "mcp", "rich", "typer", "yaml"}
