"""Bad input in files: each mistake is answered in one screen, named, with a next step, before anything is started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Call = Callable[..., tuple[int, str, str]]

GOOD: dict[str, Any] = {
    "run": {"name": "hello", "backend": "local"},
    "model": {"path": "miniature:chars"},
    "data": {"train": "rows.jsonl", "max_prompt_tokens": 32},
    "reward": {"name": "positions"},
    "rollout": {"engine": "transformers", "group_size": 4, "max_completion_tokens": 4},
    "train": {"prompts_per_step": 2, "steps": 2},
}
OLD: dict[str, Any] = {
    "run": {"experiment_id": "hello"},
    "train": {"alg_name": "sgrpo", "total_number_of_epochs": 1, "train_steps_per_epoch": 2},
    "model": {"name": "miniature:chars"},
    "data": {"train_files_path": "rows.jsonl"},
    "rollout": {"n_samples": 4, "max_tokens": 4},
}
# What is wrong -> (the file that it stands in, values that replace the good ones, words of the answer).
MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "unknown key": (GOOD, {"train.lrr": 1e-3}, ["unknown key 'train.lrr'", "Did you mean 'train.lr'?", "line "]),
    "unknown section": (GOOD, {"trian": {"lr": 1e-3}}, ["unknown key 'trian'", "Did you mean 'train'?"]),
    "missing file": (GOOD, {"data.train": "rwos.jsonl"}, ["data.train", "rwos.jsonl"]),
    "missing column": (
        GOOD,
        {"data.train": [{"name": "rows.jsonl", "prompt_column": "promt"}]},
        ["rows.jsonl", "no column 'promt'", "Did you mean 'prompt'?"],
    ),
    "empty dataset": (GOOD, {"data.train": "empty.jsonl"}, ["empty.jsonl", "no rows"]),
    "missing model": (GOOD, {"model.path": "./models/nowhere"}, ["./models/nowhere", "does not exist"]),
    "GPU settings on 0 GPUs": (
        GOOD,
        {"rollout.tensor_parallel": 2, "rollout.engine": "vllm", "run.backend": "ray"},
        ["rollout.tensor_parallel", "0 GPUs", "run.ray_address"],
    ),
    "0 GPUs in the other dialect": (OLD, {"run.training_gpus": 0}, ["run.training_gpus", "0"]),
    "group of one": (GOOD, {"rollout.group_size": 1}, ["rollout.group_size", "2 or more"]),
    "group of one in the other dialect": (OLD, {"rollout.n_samples": 1}, ["n_samples", "2 or more"]),
    "prompt longer than the model": (
        GOOD,
        {"data.train": "long.jsonl", "data.max_prompt_tokens": 64},
        ["data.train", "do not fit into the model, which reads 64 tokens", "data.max_prompt_tokens"],
    ),
    "port taken": (GOOD, {}, ["MASTER_PORT", "the port is taken"]),
    "cluster that does not answer": (
        GOOD,
        {"run.backend": "ray", "run.ray_address": "127.0.0.1:1"},
        ["run.ray_address", "nothing answers there", "ray start"],
    ),
    "disk full": (GOOD, {"train.keep_checkpoints": 10**9}, ["GiB of disk", "are free", "OXRL_HOME"]),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the person works: good rows, too long rows, no rows; the GPUs of this machine are hidden."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "12>", "answer": "12"}\n' * 4)
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "1" * 62, "answer": "1"}) + "\n")
    (tmp_path / "empty.jsonl").write_text("")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def taken_port(folder: Path) -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def write(folder: Path, base: dict[str, Any], values: dict[str, Any]) -> Path:
    config = json.loads(json.dumps(base))
    for key, value in values.items():
        *sections, name = key.split(".")
        section = config
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    path = folder / "hello.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def oxrl_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a person types it."""
    program = Path(sys.executable).with_name("oxrl")
    return subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ)
    )


def check_answer(code: int, text: str, words: list[str]) -> None:
    assert code == 2, text
    assert "Traceback" not in text
    assert len(text.splitlines()) <= 24, text
    for word in words:
        assert word in text, text
    assert "next" in text, text


@pytest.mark.parametrize("base", [GOOD, OLD], ids=["own", "other dialect"])
def test_the_files_are_good_but_for_their_mistakes(oxrl: Call, folder: Path, base: dict[str, Any]) -> None:
    code, out, error = oxrl("config", "validate", write(folder, base, {}))
    assert code == 0, out + error


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_screen_before_anything_starts(
    oxrl: Call, home: Path, folder: Path, taken_port: int, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, values, words = MISTAKES[mistake]
    path = str(write(folder, base, values))
    if mistake == "port taken":
        monkeypatch.setenv("MASTER_PORT", str(taken_port))
    done = oxrl_process("run", "launch", path)
    check_answer(done.returncode, done.stdout + done.stderr, words)
    assert not home.exists(), "nothing was created"
    # The same in this process: the other command, as an agent and as a person sees it.
    for rendering in ("agent", "human"):
        code, out, error = oxrl("config", "validate", path, "--format", rendering)
        check_answer(code, out + error, words if rendering == "agent" else [])  # a person's screen is folded
    code, out, _ = oxrl("config", "validate", path, "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (2, False)
    assert all(problem["what"] and problem["next"] for problem in report["problems"])


def test_a_config_file_that_is_not_there_is_named_with_its_neighbour(folder: Path) -> None:
    write(folder, GOOD, {})
    done = oxrl_process("train", "helo.yaml")
    check_answer(done.returncode, done.stderr, ["helo.yaml", "Did you mean 'hello.yaml'?"])


def test_a_disk_that_is_full_at_the_launch_is_said_and_leaves_no_half_run(folder: Path, home: Path) -> None:
    """A limit on the size of files stands for the full disk: the check cannot see it, the first write does."""
    path = write(folder, GOOD, {})
    program = (
        "import resource, sys; from oxrl_core.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16)); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "launch", str(path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    check_answer(done.returncode, done.stderr, [str(home), "OXRL_HOME"])
    assert list((home / "runs").iterdir()) == []
