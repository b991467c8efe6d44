"""Onboarding through the tools: a run of its own kind that parks where no rule helps, and is steered from there."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # talking.py, beside this file

from talking import ERAS, answer, error, links_of, talk

from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir
from swarm.onboard.criteria import Criterion, Verification

UNKNOWN = "nobody/no-such-model"  # offline, and not in the registry: nothing can be found out about it
MINIATURE = "miniature:smollm2-135m-instruct"
ENDED = ("finished", "failed", "stopped", "lost")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def watched(run_id: str, *until: str) -> dict[str, Any]:
    """The run once it is in one of these states."""
    view, deadline = answer("get_run", run_id=run_id), time.monotonic() + 120
    while view["state"] not in until:
        assert time.monotonic() < deadline and view["state"] not in set(ENDED) - {"stopped"}, view
        view = answer("watch_run", run_id=run_id, wait_seconds=20, cursor=view.get("cursor", ""))
    return view


def test_the_same_key_starts_no_second_onboarding_and_a_failure_says_what_to_do() -> None:
    (result,) = talk(("onboard_model", {"model": UNKNOWN, "miniature_only": True, "key": "mine"}))
    began = result.structured_content or {}
    assert began["kind"] == "onboard" and began["next"]
    assert links_of(result) == [f"oxrl://runs/{began['run_id']}/log"]
    again = answer("onboard_model", model=UNKNOWN, miniature_only=True, key="mine")
    assert again["run_id"] == began["run_id"]
    other = error("onboard_model", model=UNKNOWN, miniature_only=False, key="mine")
    assert began["run_id"] in other["what"] and "key" in other["next"]
    failed = watched(began["run_id"], "failed")
    assert UNKNOWN in json.dumps(failed["error"]) and failed["error"]["next"] and failed["next"] == "diagnose_run"


@pytest.mark.engine
def test_an_onboarding_that_waits_is_steered_within_its_gate_or_given_up() -> None:
    from swarm.onboard import onboard_model

    # A group of one has nothing to compare with, and no rule may make it another experiment.
    run_id = onboard_model(MINIATURE, miniature_only=True, overrides=["rollout.group_size=1"]).run_id
    parked = watched(run_id, "needs_input")
    assert parked["next"] == "steer_onboarding" and parked["alerts"][-1]["code"] == "needs_input"
    for change, word in (
        ("rollout.group_size=4", "learned"),
        ("train.lrr=1", "lr"),
        ("reward.name=os:system", "os:system"),
    ):
        refused = error("steer_onboarding", run_id=run_id, action="retry", overrides=[change])
        assert word in refused["what"] + refused["next"], refused
    assert answer("get_run", run_id=run_id)["state"] == "needs_input", "what was refused has changed nothing"
    assert answer("steer_onboarding", run_id=run_id, action="give_up", reason="not worth it")["run_id"] == run_id
    ended = watched(run_id, "failed")
    assert "not worth it" in ended["error"]["what"] and ended["error"]["next"] == "draft_bug_report"
    late = error("steer_onboarding", run_id=run_id, action="give_up")
    assert "failed" in late["what"]


@pytest.mark.parametrize(
    ("tool", "arguments", "word"),
    [
        ("onboard_model", {"model": UNKNOWN, "task": "mat"}, "math"),
        ("onboard_model", {"model": "/etc"}, "OXRL_MCP_ROOTS"),
        ("onboard_model", {"model": "../.."}, "OXRL_MCP_ROOTS"),
        ("onboard_model", {"model": UNKNOWN, "max_attempts": 11}, "max_attempts"),
        ("onboard_model", {"model": UNKNOWN, "attempts": 1}, "max_attempts"),
        ("steer_onboarding", {"run_id": "no-such-run", "action": "retry"}, "no run"),
        ("steer_onboarding", {"run_id": "no-such-run", "action": "patch"}, "retry"),
        ("steer_onboarding", {"run_id": "no-such-run", "action": "retry", "code": "x"}, "overrides"),
    ],
)
def test_what_cannot_be_meant_is_answered_with_what_can(tool: str, arguments: dict[str, Any], word: str) -> None:
    refused = error(tool, **arguments)
    assert word in refused["what"] + refused["next"], refused


@pytest.mark.parametrize("era", ERAS)
def test_no_other_run_is_steered(start: Any, era: str) -> None:
    run = start(steps=1)
    (result,) = talk(("steer_onboarding", {"run_id": run.run_id, "action": "retry"}), era=era)
    assert result.is_error and "no onboarding" in result.content[0].text and "onboard_model" in result.content[0].text  # pyright: ignore[reportAttributeAccessIssue]


def test_get_run_tells_what_an_onboarding_has_found(home: Path) -> None:
    run = RunDir.create_from_parts(home, "onboard-a", "onboard: {}\n", {"kind": "onboard"})
    assert "result" not in answer("get_run", run_id=run.run_id)
    met = Criterion(name="finite", passed=True, value="12 of 12", limit="all", evidence="metrics.jsonl")
    found = Verification(
        model="a/b", level="miniature", verified=True, run_id="b-1", config_hash="0", criteria=[met], wall_seconds=9.0
    )
    write_json(run.path / "verification.json", found.model_dump(mode="json"))
    view = answer("get_run", run_id=run.run_id)
    assert view["result"]["verified"] is True and view["result"]["level"] == "miniature"
    assert view["result"]["criteria"][0]["value"] == "12 of 12" and view["next"] == "generate_config"
