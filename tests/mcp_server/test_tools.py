"""Every tool, called as a client calls it, in both eras, on real runs under a real supervisor.

The runs' driver is a small program that writes the same progress and metrics as a training driver, so that a whole
life of a run takes a second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from mcp import Client

from mcp_server.server import build_server
from oxrl_core.errors import NotFoundError
from oxrl_core.runs.rundir import RunDir

sys.path.insert(0, str(Path(__file__).parent))  # talking.py, beside this file

from talking import ERAS, MOST, answer, error, talk

SECRET = "hf_" + "zyxw9876" * 4


def wait_for_end(run: RunDir, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not run.status().has_ended:
        assert time.monotonic() < deadline, run.status()
        time.sleep(0.05)


@pytest.mark.parametrize("era", ERAS)
def test_a_run_is_watched_to_its_end_and_read_afterwards(start: Callable[..., RunDir], era: str) -> None:
    run = start(steps=5)
    ended = answer("watch_run", era, run_id=run.run_id, until="end", wait_seconds=20)
    assert (ended["state"], ended["step"], ended["total_steps"]) == ("finished", 5, 5)
    assert ended["metrics"]["reward/mean"] == 1 and ended["next"] == "get_metrics"
    assert answer("get_run", era, run_id=run.run_id)["path"] == str(run.path)

    metrics = answer("get_metrics", era, run_id=run.run_id)
    assert metrics["columns"] == ["step", "reward/mean", "eval/reward", "loss", "lr"]
    assert metrics["rows"][0] == [1, 0.2, 0.1, 0.123457, 1e-06] and metrics["rows"][1][2] is None
    assert metrics["summary"]["eval/reward"] == {"first": 0.1, "last": 0.9, "min": 0.1, "max": 0.9}
    thinned = answer("get_metrics", era, run_id=run.run_id, names=["loss"], max_points=2)
    assert [row[0] for row in thinned["rows"]] == [1, 5] and thinned["total_rows"] == 5

    logs = answer("read_logs", era, run_id=run.run_id, grep="step 5")
    assert logs["lines"] == ["step 5 of 5"]
    assert answer("read_logs", era, run_id=run.run_id, cursor=logs["cursor"])["lines"] == []


@pytest.mark.parametrize("era", ERAS)
def test_a_run_is_stopped_and_stays_stopped(start: Callable[..., RunDir], era: str) -> None:
    run = start(steps=1000, seconds=0.05)
    assert answer("list_runs", era, state="active")["runs"][0]["run_id"] == run.run_id
    stopped = answer("stop_run", era, run_id=run.run_id, reason="enough")
    assert (stopped["state"], stopped["stop_reason"]) == ("stopped", "enough")
    assert answer("stop_run", era, run_id=run.run_id)["state"] == "stopped"
    assert answer("list_runs", era, state="active") == {"runs": [], "total": 1}


def test_a_failed_run_tells_its_error_and_next_step(start: Callable[..., RunDir]) -> None:
    run = start(ends="fail")
    wait_for_end(run)
    view = answer("get_run", run_id=run.run_id)
    assert view["state"] == "failed"
    assert view["error"] == {
        "code": "NumericsError",
        "what": "the loss is not finite",
        "where": "step 3",
        "next": "lower train.lr",
    }


def test_watching_for_progress_returns_at_the_next_step_and_misses_nothing(start: Callable[..., RunDir]) -> None:
    run = start(steps=4, seconds=1.5)  # longer than a server takes to be made on a busy machine
    cursor, steps = "", []
    for _ in range(20):
        view = answer("watch_run", run_id=run.run_id, until="progress", wait_seconds=5, cursor=cursor)
        steps.append(view["step"])
        cursor = view["cursor"]
        if view["state"] == "finished":
            break
    assert steps == sorted(steps) and steps[-1] == 4 and len(steps) >= 3


def test_a_wait_that_brings_nothing_is_no_error_and_is_cut_to_the_host(
    start: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(steps=1000, seconds=0.1)
    monkeypatch.setattr("mcp_server.hosts.UNKNOWN_HOST_SECONDS", 0.5)
    monkeypatch.setattr("mcp_server.tools.operate.SECONDS_BETWEEN_REPORTS", 0.15)
    messages: list[str] = []
    view = (
        talk(("watch_run", {"run_id": run.run_id, "until": "end", "wait_seconds": 3600}), progress=messages)[
            0
        ].structured_content
        or {}
    )
    assert view["state"] in ("starting", "running") and 0.4 <= view["waited_seconds"] < 3
    assert any("step" in message and "/1000" in message for message in messages)


def test_a_client_that_gives_up_a_wait_keeps_its_session(start: Callable[..., RunDir]) -> None:
    run = start(steps=1000, seconds=0.1)

    async def go() -> str:
        async with Client(build_server()) as client:
            with anyio.move_on_after(0.5):
                await client.call_tool("watch_run", {"run_id": run.run_id, "until": "end", "wait_seconds": 40})
            with anyio.fail_after(5):
                return (await client.call_tool("get_run", {"run_id": run.run_id})).structured_content["state"]

    assert anyio.run(go) in ("starting", "running")


def test_secrets_in_logs_are_masked(start: Callable[..., RunDir]) -> None:
    run = start()
    wait_for_end(run)
    assert SECRET in (run.logs / "driver.log").read_text(encoding="utf-8")
    assert answer("read_logs", run_id=run.run_id, grep="token")["lines"] == ["the token is [redacted]"]


@pytest.mark.parametrize("tool", ["get_run", "watch_run", "stop_run", "get_metrics", "read_logs"])
def test_an_unknown_run_is_answered_with_a_next_step(home: Path, tool: str) -> None:
    found = error(tool, run_id="no-such-run")
    assert found["code"] == NotFoundError.__name__ and found["next"]


@pytest.mark.parametrize("run_id", ["../../etc", "a/b", "..", "a%2Fb", ""])
def test_a_run_id_is_never_a_path(home: Path, run_id: str) -> None:
    assert error("get_run", run_id=run_id)["where"] == "get_run.run_id"


def test_an_unknown_metric_is_answered_with_those_there_are(start: Callable[..., RunDir]) -> None:
    run = start()
    wait_for_end(run)
    found = error("get_metrics", run_id=run.run_id, names=["reward/meen"])
    assert "reward/mean" in found["what"] and "eval/reward" in found["next"]


@pytest.mark.parametrize("era", ERAS)
def test_a_recipe_is_valid_and_a_dry_run_starts_nothing(home: Path, era: str) -> None:
    report = answer("validate_config", era, config="demo")
    assert report["ok"] and report["kind"] == "rl" and "config_yaml" not in report
    assert "group_size" in answer("validate_config", era, MOST, config="demo", show_yaml=True)["config_yaml"]
    plan = answer("launch_run", era, config="demo", overrides=["run.seed=3"], dry_run=True)
    assert plan["state"] == "planned" and plan["run_id"] == "" and not plan["created"]
    assert answer("list_runs", era)["total"] == 0


def test_a_misspelt_key_is_answered_with_the_right_one(home: Path) -> None:
    found = error("launch_run", config="demo", overrides=["train.lrr=1e-4"])
    assert (found["code"] == "ConfigError" and "'lr'" in found["what"] + found["next"]) or "train.lr" in found[
        "what"
    ] + found["next"]
    report = answer("validate_config", config="demo", overrides=["train.lrr=1e-4"])
    assert not report["ok"] and report["problems"][0]["code"] == "ConfigError"


def test_yaml_text_is_a_configuration_too(home: Path) -> None:
    text = "run: {name: mine}\nmodel: {path: 'miniature:chars'}\ndata: {train: reverse3}\nalgorithm: {name: sgrpo}\n"
    assert answer("validate_config", config=text)["name"] == "mine"
    assert "YAML" in answer("validate_config", config="a: [1")["problems"][0]["what"]


@pytest.mark.parametrize("config", ["/etc/passwd", "../demo.yaml", "registry/examples/demo.yaml", "dmeo"])
def test_a_path_is_no_configuration(home: Path, config: str) -> None:
    for tool in ("validate_config", "launch_run"):
        found = error(tool, config=config)
        assert found["code"] == "NotFoundError" and "demo" in found["next"] and "path" in found["next"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("kind", "member"), [("recipes", "demo"), ("algorithms", "sgrpo"), ("datasets", "reverse3"), ("rewards", "gsm8k")]
)
def test_the_registry_lists_what_configurations_name(era: str, kind: str, member: str) -> None:
    items = {item["name"]: item for item in answer("list_registry", era, kind=kind, limit=100)["items"]}
    assert items[member]["summary"]
    assert [item["name"] for item in answer("list_registry", era, kind=kind, query=member.upper())["items"]].count(
        member
    ) == 1
    if kind == "algorithms":
        found = answer("list_registry", era, kind=kind, query="sgrpo", limit=5)["items"]
        assert found[0]["takes"]["clip_low"] == "0.2" and "takes" not in items[member]


@pytest.mark.parametrize("kind", ["recipes", "algorithms"])
def test_contributed_losses_are_listed_where_a_query_finds_them(kind: str) -> None:
    listed = answer("list_registry", kind=kind, limit=100)
    names = {item["name"] for item in listed["items"]}
    assert {"dpo", "sgrpo"} < names and "robust_dpo" not in names and len(names) < listed["total"]
    found = answer("list_registry", kind=kind, query="robust_dpo")
    assert [item["name"] for item in found["items"]] == ["robust_dpo"]


def test_a_contributed_recipe_is_known_by_its_name() -> None:
    assert answer("validate_config", config="robust_dpo")["name"] == "robust_dpo"
    refused = error("validate_config", config="robust_dpp")
    assert "robust_dpo" in refused["what"] and "robust_dpo" not in refused["next"]


@pytest.mark.parametrize("era", ERAS)
def test_the_environment_is_described_with_fixes(era: str, home: Path) -> None:
    report = answer("check_environment", era)
    assert isinstance(report["ok"], bool) and report["items"]
    assert all(item.get("fix") for item in report["items"] if not item["ok"] and item["needed"])


def test_runs_go_on_when_their_server_has_gone(start: Callable[..., RunDir]) -> None:
    run = start(steps=30, seconds=0.3)
    first = answer("watch_run", run_id=run.run_id, until="progress", wait_seconds=5)["step"]
    wait_for_end(run)  # no server lives here
    assert answer("get_run", run_id=run.run_id)["step"] == 30 > first


@pytest.mark.engine
def test_a_launch_is_real_and_its_key_starts_no_second_run(home: Path) -> None:
    first = answer("launch_run", config="demo", overrides=["run.seed=5"], key="mine")
    assert first["created"] and first["next"] == "watch_run"
    again = answer("launch_run", config="demo", overrides=["run.seed=5"], key="mine")
    assert again["run_id"] == first["run_id"] and not again["created"]
    other = error("launch_run", config="demo", overrides=["run.seed=6"], key="mine")
    assert first["run_id"] in other["what"]
    assert answer("stop_run", run_id=first["run_id"], force=True)["state"] == "stopped"
    assert answer("list_runs")["total"] == 1
