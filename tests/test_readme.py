"""Every command of the README is run, in its order, in a home of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROVEN_ELSEWHERE = ("git clone", "make demo", "make test")  # the way here, and what .ci/run itself runs

TINY = {
    "run": {"name": "readme", "backend": "local"},
    "model": {"path": "miniature:chars"},
    "data": {"train": "copy3"},
    "rollout": {"engine": "transformers", "max_completion_tokens": 4, "group_size": 4},
    "train": {"steps": 2, "prompts_per_step": 4},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [shlex.join(shlex.split(line.removeprefix("$ "), comments=True)) for line in lines]


def test_the_make_targets_exist():
    named = set(re.findall(r"make ([a-z]+)", README))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "check"} <= named <= targets


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_the_commands_work_in_their_order(tmp_path):
    environment = os.environ | {
        "OXRL_HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    ran = []
    for command in commands():
        if command.startswith(PROVEN_ELSEWHERE):
            continue
        if command.startswith("python main_"):
            supervised = {name: value for name, value in TINY.items() if name != "rollout"} | {
                "algorithm": {"name": "sft"}
            }
            config = supervised if "main_sl" in command else TINY
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        words = shlex.split(command.replace("main_", f"{ROOT}/main_"))
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.stdout.strip(), f"{command} says nothing"
        ran.append(command)
    assert len(ran) > 16


@pytest.mark.engine
def test_the_python_example_works(tmp_path):
    (example,) = blocks("python")
    environment = os.environ | {"OXRL_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    state, reward, folder = done.stdout.splitlines()[-1].split(" ", 2)
    assert state == "finished"
    assert 0 <= float(reward) <= 1
    assert (Path(folder) / "model.safetensors").is_file()


def test_the_configuration_example_is_valid():
    from oxrl_core.config.load import load_config

    (example,) = blocks("yaml")
    assert load_config(yaml.safe_load(example)).config.reward.name == "gsm8k"
