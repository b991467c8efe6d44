"""Whole onboardings on the CPU: real runs of small models, with faults planted, killed, and steered."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.api import get_run, list_runs, stop_run
from oxrl_core.errors import ConfigError
from oxrl_core.runs import launch, process
from oxrl_core.runs.records import read_lines
from oxrl_core.runs.rundir import RunDir
from swarm.bug_report import draft_bug_report
from swarm.bugfix import bugfix_bundle
from swarm.bugfix.attempts import read_attempts
from swarm.bugfix.gate import PatchRefused
from swarm.onboard import archive, onboard_model, steer_onboarding
from swarm.onboard.journal import STATES
from swarm.onboard.work import wait_until_ended

pytestmark = pytest.mark.engine
MINIATURE = "miniature:smollm2-135m-instruct"
SECONDS = 400.0


@pytest.fixture
def home(oxrl_home_of_the_test: Path) -> Iterator[Path]:
    """A home whose runs are all ended after the test."""
    yield oxrl_home_of_the_test
    for run_id in launch.run_ids(oxrl_home_of_the_test):
        launch.stop(RunDir(oxrl_home_of_the_test / "runs" / run_id), "end of the test", grace=0.0)


def until(is_so: Callable[[], bool], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def ended(run: RunDir) -> str:
    until(lambda: run.status().has_ended)
    return run.status().state


def left(run: RunDir) -> Counter[str]:
    return Counter(line["state"] for line in read_lines(run.path / "journal.jsonl") if line["event"] == "left")


def children(home: Path) -> list[str]:
    return [view.run_id for view in list_runs(home=home).runs if view.kind != "onboard"]


def tail(run: RunDir) -> str:
    return "\n".join(run.read_logs(lines=30).lines)


def test_three_planted_faults_are_repaired_one_at_a_time(home: Path) -> None:
    # Two that the check of the configuration finds, and one that only the run itself meets.
    faults = (
        "model.attention=flash_attention_2",
        "rollout.tensor_parallel=4",
        "algorithm.name=tests.onboard.scarce_memory:sgrpo",
    )
    sizes = ("train.prompts_per_step=8", "train.micro_batch_tokens=1024")
    run = RunDir(onboard_model(MINIATURE, miniature_only=True, overrides=[*faults, *sizes], home=home).path)
    assert ended(run) == "finished", tail(run)
    rows = read_attempts(run)
    assert [(row.source, [change.path for change in row.changes], row.verdict) for row in rows] == [
        ("first", [], "kept"),
        ("rules", ["rollout.tensor_parallel"], "kept"),
        ("rules", ["model.attention"], "kept"),
        ("rules", ["train.micro_batch_tokens"], "kept"),
    ]
    assert all(change.risk == "S" for row in rows for change in row.changes)
    assert [row.cause for row in rows[2:]] == ["flash_attention_without_gpu", "cuda_oom"]
    verification = json.loads((run.path / "verification.json").read_text())
    assert verification["verified"] and verification["level"] == "miniature"
    assert {"reload", "finite_loss", "reward", "logprob_gap", "mask_coverage", "sampler_agreement"} <= {
        one["name"] for one in verification["criteria"] if one["passed"]
    }
    child = RunDir(home / "runs" / verification["run_id"])
    assert child.config().train.prompts_per_step == 8 and child.config().train.micro_batch_tokens == 512
    assert child.status().step == 12  # as many as were planned
    entry = archive.read_entry(home, "smollm2-135m-instruct")
    assert {fix["path"]: fix["new"] for fix in entry["fixes"]} == {
        "rollout.tensor_parallel": 1, "model.attention": "sdpa", "train.micro_batch_tokens": 512,
    }  # fmt: skip
    evidence = home / entry["verified"]["evidence"]
    assert {path.name for path in evidence.iterdir()} >= {"verification.json", "attempts.json", "metrics.jsonl"}
    assert not list(child.checkpoints.glob("step_*"))
    # The fixes are taken up again: the next onboarding's first attempt has them all.
    again = [change.path for change in archive.kept_fixes(home, "smollm2-135m-instruct", "miniature")]
    assert sorted(again) == ["model.attention", "rollout.tensor_parallel", "train.micro_batch_tokens"]


def test_an_onboarding_that_is_killed_three_times_ends_verified_and_does_nothing_twice(home: Path) -> None:
    run = RunDir(onboard_model("miniature:qwen3-0.6b", miniature_only=True, key="k", home=home).path)
    moments = random.Random(0)
    for _ in range(3):
        time.sleep(moments.uniform(0.5, 4.0))
        status = run.status()
        if status.has_ended:
            break
        if status.driver is not None and process.is_alive(status.driver):
            os.kill(status.driver.pid, signal.SIGKILL)
    wait_until_ended(run)
    assert run.status().state == "finished", tail(run)
    assert left(run) == Counter(STATES)
    assert len(children(home)) == 1
    # The same key asks for the same run, whatever became of it.
    again = onboard_model("miniature:qwen3-0.6b", miniature_only=True, key="k", home=home)
    assert (again.run_id, again.state) == (run.run_id, "finished")
    with pytest.raises(ConfigError, match="another order"):
        onboard_model("miniature:qwen3-1.7b", key="k", home=home)


def test_what_no_rule_repairs_waits_for_a_decision_that_passes_the_same_gate(home: Path) -> None:
    # A group of one has nothing to compare with: a larger one is another experiment, and nobody has allowed that.
    fault = ["rollout.group_size=1"]
    run = RunDir(onboard_model(MINIATURE, miniature_only=True, overrides=fault, home=home).path)
    assert ended(run) == "needs_input", tail(run)
    view = get_run(run.run_id, home=home)
    assert view.next == "steer_onboarding" and "needs_input" in [alert.code for alert in view.alerts]
    assert children(home) == []
    bundle = bugfix_bundle(run.run_id, home=home)
    assert bundle.error["what"] and "rollout.group_size" not in bundle.allowed
    assert len(bundle.model_dump_json()) <= 24_000
    wish = ["rollout.group_size=4"]
    with pytest.raises(PatchRefused, match="changes what is learned"):
        steer_onboarding(run.run_id, "retry", wish, home=home)
    for cheat in ("train.steps=1", "reward.name=none", "run.seed=3", "model.trust_remote_code=true"):
        with pytest.raises(ConfigError):
            steer_onboarding(run.run_id, "retry", [cheat], home=home)
    assert run.status().state == "needs_input"
    (home / "policy.yaml").write_text("science_changes: true\n")
    steer_onboarding(run.run_id, "retry", wish, "four are enough to compare", home=home)
    until(lambda: run.status().state not in ("needs_input",))
    assert ended(run) == "finished", tail(run)
    assert left(run) == Counter(STATES)
    last = read_attempts(run)[-1]
    assert (last.source, last.reason) == ("caller", "four are enough to compare")


def test_an_onboarding_that_is_given_up_ends_failed_with_its_reason(home: Path) -> None:
    fault = ["rollout.group_size=1"]
    run = RunDir(onboard_model(MINIATURE, miniature_only=True, overrides=fault, home=home).path)
    assert ended(run) == "needs_input", tail(run)
    steer_onboarding(run.run_id, "give_up", reason="not worth it", home=home)
    until(lambda: run.status().state not in ("needs_input",))
    assert ended(run) == "failed"
    error = run.status().error or {}
    assert error["code"] == "GivenUp" and "not worth it" in error["what"] and error["next"] == "draft_bug_report"
    with pytest.raises(ConfigError):
        steer_onboarding(run.run_id, "give_up", home=home)
    draft = draft_bug_report(run.run_id, "nothing helped", home=home)
    assert draft.kind == "user" and "not worth it" in draft.body and "nothing helped" in draft.body
    assert Path(draft.path).is_file() and draft.plan_hash == ""


def test_a_run_that_is_no_onboarding_cannot_be_steered(home: Path, make_any_run: Callable[[], Any]) -> None:
    with pytest.raises(Exception, match="is no onboarding"):
        steer_onboarding(make_any_run().run_id, "retry", home=home)


@pytest.fixture
def make_any_run(home: Path) -> Callable[[], RunDir]:
    def make() -> RunDir:
        return RunDir.create_from_parts(home, "other", "run: {}\n", {"kind": "rl", "config_hash": "0"})

    return make


def test_asked_to_stop_it_ends_its_child_runs_too(home: Path) -> None:
    run = RunDir(onboard_model(MINIATURE, miniature_only=True, home=home).path)
    until(lambda: bool(children(home)))
    stop_run(run.run_id, reason="enough", home=home)
    assert run.status().state == "stopped"
    (child,) = children(home)
    until(lambda: RunDir(home / "runs" / child).status().has_ended, 30.0)
    assert process.members_by_run().get(child, []) == []
