"""The recipe of every algorithm, run for real for two steps: the same driver, learner, sampler and checkpoints as ever.

All recipes go through one process (in_process.py), one after the other: a process for each would take half an hour.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from safetensors.numpy import load_file

from oxrl_core.algorithms.base import all_algorithms
from oxrl_core.rollout.recorder import read_rollouts
from oxrl_core.runs.rundir import RunDir

RUNNER = Path(__file__).parent / "in_process.py"
TWO_STEPS = ["train.steps=2"]

# The fixtures go through dozens of runs.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


class Judge(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that always prefers the first answer: asked in both orders, everybody draws."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "Both are short.\nA"}
        body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def play(jobs: list[dict[str, Any]], home: Path) -> list[dict[str, str]]:
    """Where the runs of the jobs are, or what ended them."""
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(home)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(jobs), f"the runner ended with {done.returncode}:\n{done.stderr[-4000:]}"
    return answers


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, judge: str) -> dict[str, RunDir | str]:
    """The run directory of two steps of each algorithm's recipe, or the error that ended it."""
    home = tmp_path_factory.mktemp("home")
    before = play([{"recipe": name, "overrides": TWO_STEPS} for name in ("sft", "rm")], home)
    assert [answer.get("error") for answer in before] == [None, None]
    sft, rm = (f"run:{Path(answer['path']).name}" for answer in before)
    needs = {
        "kd": [f"algorithm.teacher={sft}"],
        "gkd": [f"algorithm.teacher={sft}"],
        # After two steps hardly a completion is right: learn from those that are right in one place.
        "rft": [f"model.path={sft}", "selection.reward_threshold=0.25"],
        "rlhf": [f"model.path={sft}", f"reward.path={rm}"],
        "rlaif": [f"model.path={sft}", f"reward.url={judge}", "reward.missing_eos_penalty=0"],
    }
    names = sorted(set(all_algorithms()) - {"sft", "rm"})
    found = dict(zip(("sft", "rm"), before, strict=True))
    half = len(names) // 2
    for part in (names[:half], names[half:]):
        jobs = [{"recipe": name, "overrides": TWO_STEPS + needs.get(name, [])} for name in part]
        found |= dict(zip(part, play(jobs, home), strict=True))
    return {name: answer.get("error") or RunDir(Path(answer["path"])) for name, answer in found.items()}


@pytest.mark.parametrize("name", sorted(all_algorithms()))
def test_two_steps_of_its_recipe_are_finite_and_change_the_weights(name: str, runs: dict[str, RunDir | str]) -> None:
    run = runs[name]
    assert isinstance(run, RunDir), run
    rows = run.metrics()
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert any("loss" in row for row in rows), "it learned from nothing"
    start = run.path / "model"
    if not start.is_dir():  # the recipe goes on from the sft run
        sft = runs["sft"]
        assert isinstance(sft, RunDir), sft
        start = sft.path / "final"
    before = load_file(start / "model.safetensors")
    after = load_file(run.path / "final" / "model.safetensors")
    shared = set(before) & set(after)
    assert shared
    # A judge that finds all alike teaches nothing; the others move every matrix of the model.
    moved = [key for key in shared if (before[key] != after[key]).any()]
    assert name in ("rft", "rlaif") or set(moved) >= {key for key in shared if key.endswith("proj.weight")}


def test_a_judge_that_always_prefers_the_first_answer_finds_all_alike(runs: dict[str, RunDir | str]) -> None:
    run = runs["rlaif"]
    assert isinstance(run, RunDir), run
    (rows,) = [read_rollouts(path) for path in [run.path / "rollouts" / "step-00000001.parquet"]]
    assert {row["score"] for row in rows} == {0.5}
    assert {row["score_status"] for row in rows} == {"ok"}
    assert {value for row in rows for value in row["advantages"]} == {0.0}


def test_a_critic_leaves_values_and_returns_in_the_record(runs: dict[str, RunDir | str]) -> None:
    run = runs["ppo"]
    assert isinstance(run, RunDir), run
    rows = read_rollouts(run.path / "rollouts" / "step-00000002.parquet")
    for row in rows:
        length = len(row["completion_token_ids"])
        assert length == len(row["values"]) == len(row["returns"]) == len(row["advantages"]) == len(row["ref_logprobs"])
    metrics = run.metrics()[-1]
    assert {"value/loss", "value/explained", "value/grad_norm"} <= set(metrics)


INTERRUPTED = {
    "ppo": ["train.prompts_per_step=8"],
    "ppo-shared": ["train.prompts_per_step=8", "algorithm.critic=shared", "algorithm.critic_lr=null"],
    "kto": ["algorithm.baseline=running"],
    "dpo": ["algorithm.precompute_reference=true"],
    "dpo-lora": ["model.lora.enabled=true"],
    "rm": [],
    "cpt": ["train.rows_per_step=7", "data.max_length=5"],  # a step ends inside a document
    "spin": ["rollout.sync_every=3"],  # it is stopped where the sampler lags behind
    "online_dpo": ["reward.normalize=running"],
    "rloo": [],
    "bco": [],
}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The final folders of runs of four steps: never stopped, and stopped and gone on with after one and two more."""
    home = tmp_path_factory.mktemp("home")
    jobs = []
    for name, overrides in INTERRUPTED.items():
        job = {"recipe": name.split("-")[0], "overrides": ["train.steps=4", *overrides]}
        jobs += [job, job | {"stops": [1, 1]}]
    answers = play(jobs, home)
    assert [answer.get("error") for answer in answers] == [None] * len(jobs)
    finals = [Path(answer["path"]) / "final" for answer in answers]
    return dict(zip(INTERRUPTED, zip(finals[::2], finals[1::2], strict=True), strict=True))


@pytest.mark.parametrize("name", sorted(INTERRUPTED))
def test_a_resumed_run_ends_with_the_very_weights_of_one_that_was_never_stopped(
    name: str, resumed: dict[str, tuple[Path, Path]]
) -> None:
    whole, stopped = resumed[name]
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert files
    for file in files:
        assert (whole / file).read_bytes() == (stopped / file).read_bytes(), file
