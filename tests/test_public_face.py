"""`import oxrl`, the Trainer, and the two scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oxrl import RunResult, Trainer, load_config
from oxrl.trainer import TASKS, machine_layer, run_name
from oxrl_core.errors import ConfigError, DataError, RunFailure

REPOSITORY = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "ray",
    "vllm",
    "deepspeed",
    "transformers",
    "numpy",
    "datasets",
    "pyarrow",
    "pydantic",
    "typer",
    "yaml",
}
SMALL: dict[str, Any] = {
    "run": {"backend": "local"},
    "rollout": {"engine": "transformers", "group_size": 4},
    "train": {"steps": 2, "prompts_per_step": 4},
}
SFT: dict[str, Any] = {
    "run": {"name": "small", "backend": "local"},
    "model": {"path": "miniature:chars"},
    "data": {"train": "copy3"},
    "algorithm": {"name": "sft"},
    "train": {"steps": 2, "rows_per_step": 4},
}


@pytest.fixture
def sft_file(tmp_path: Path) -> Callable[..., Path]:
    def write(**train: Any) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({**SFT, "train": {**SFT["train"], **train}}))
        return path

    return write


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / name), *arguments],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_importing_oxrl_imports_nothing_heavy() -> None:
    program = "import json, sys, oxrl; oxrl.__version__, dir(oxrl); print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert not HEAVY & {name.split(".")[0] for name in loaded}


def test_the_public_names_are_there_and_no_other() -> None:
    import oxrl

    assert dir(oxrl) == ["RunResult", "Trainer", "__version__", "load_config"]
    assert oxrl.__version__.count(".") >= 2
    assert oxrl.Trainer is Trainer
    with pytest.raises(AttributeError, match="Trayner"):
        oxrl.Trayner  # noqa: B018 - the access is the test


def test_python_dash_m_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "oxrl", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("oxrl ")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_gives_a_configuration_that_loads(task: str) -> None:
    config = load_config(Trainer(model="miniature:chars").config_for(task)).config
    assert config.model.path == "miniature:chars"
    assert config.algorithm.name == "sgrpo"
    assert config.data.eval


def test_what_the_caller_says_wins_over_the_task() -> None:
    trainer = Trainer(model={"path": "miniature:chars", "lora": {"enabled": True}}, train={"lr": 5e-4}, reward="exact")
    config = load_config(trainer.config_for("reverse3", train={"steps": 7}, run={"name": "mine"})).config
    assert (config.train.lr, config.train.steps, config.run.name) == (5e-4, 7, "mine")
    assert config.train.prompts_per_step == 32, "what nobody speaks about stays the task's"
    assert config.reward.name == "exact"
    assert config.model.lora.enabled


def test_configuring_twice_changes_nothing_in_between() -> None:
    trainer = Trainer(model="miniature:chars")
    first = trainer.config_for("reverse3", train={"steps": 7})
    assert trainer.config_for("reverse3") == Trainer(model="miniature:chars").config_for("reverse3")
    assert first["train"]["steps"] == 7


def test_rows_with_an_answer_are_rl_and_rows_with_a_completion_are_sft(tmp_path: Path) -> None:
    questions, pairs, neither = tmp_path / "questions.jsonl", tmp_path / "pairs.jsonl", tmp_path / "neither.jsonl"
    questions.write_text('{"question": "1+1", "answer": "2"}\n')
    pairs.write_text('{"prompt": "hello", "completion": "world"}\n')
    neither.write_text('{"prompt": "hello"}\n')
    trainer = Trainer(model="miniature:chars")
    assert trainer.config_for(str(questions))["algorithm"] == {"name": "sgrpo"}
    assert trainer.config_for(str(pairs))["algorithm"] == {"name": "sft"}
    assert trainer.config_for(str(questions), algorithm="sft")["algorithm"] == {"name": "sft"}
    assert load_config(trainer.config_for(str(pairs))).config.run.name == "pairs-miniature-chars"
    with pytest.raises(DataError, match="neither an answer"):
        trainer.config_for(str(neither))


def test_a_word_that_is_no_section_is_refused() -> None:
    with pytest.raises(ConfigError, match="section"):
        Trainer(model="miniature:chars", lr=1e-5)
    with pytest.raises(ConfigError, match="Did you mean"):
        load_config(Trainer(model="miniature:chars", trian={"lr": 1e-5}).config_for("reverse3"))


def test_gpus_are_shared_out_between_sampler_and_learner() -> None:
    assert machine_layer("rl", 0) == {}
    assert machine_layer("rl", 1) == {"rollout": {"colocate": True}}
    assert machine_layer("rl", 5) == {"train": {"num_workers": 2}, "rollout": {"num_workers": 3}}
    assert machine_layer("sl", 4) == {"train": {"num_workers": 4}}


def test_run_names_are_made_of_letters_that_a_name_may_have() -> None:
    assert run_name("math", "Qwen/Qwen2.5-0.5B-Instruct") == "math-Qwen2.5-0.5B-Instruct"
    assert run_name("/data/my rows.jsonl", "miniature:chars") == "my-rows-miniature-chars"
    assert run_name("hub:some/thing", "a") == "thing-a"


@pytest.mark.engine
def test_the_trainer_trains_and_returns_the_run() -> None:
    result = Trainer(model="miniature:chars", **SMALL).train(task="copy3")
    assert isinstance(result, RunResult)
    assert result.state == "finished"
    assert result.path.name == result.run_id
    assert result.model_path is not None
    assert (result.model_path / "config.json").is_file()
    rows = result.history("reward/mean")
    assert [row["step"] for row in rows if row["reward/mean"] is not None][-1] == 2
    assert 0 <= (result.metrics["reward/mean"] or 0) <= 1


@pytest.mark.engine
def test_a_run_that_fails_raises_with_the_next_step() -> None:
    """Rows of the hub are looked up when the run reads them, and the tests may not download."""
    trainer = Trainer(model="miniature:chars", **{**SMALL, "train": {"steps": 2}})
    with pytest.raises(RunFailure, match="nobody/no-such-rows") as failure:
        trainer.train(task="hub:nobody/no-such-rows", algorithm="sft")
    assert failure.value.next_step


def test_the_scripts_refuse_an_algorithm_of_the_other_kind(sft_file: Callable[..., Path]) -> None:
    done = script("main_rl.py", "--config-file", str(sft_file()))
    assert done.returncode == 2
    assert "sft is supervised training" in done.stderr
    assert f"python main_sl.py --config-file {sft_file()}" in done.stderr
    assert "Traceback" not in done.stderr
    other = script("main_sl.py", "--config-file", str(sft_file()), "algorithm.name=sgrpo")
    assert other.returncode == 2
    assert "python main_rl.py" in other.stderr


def test_the_scripts_say_what_they_need() -> None:
    done = script("main_sl.py")
    assert done.returncode == 2
    assert "--config-file" in done.stderr
    missing = script("main_sl.py", "--config-file", "nowhere.yaml")
    assert missing.returncode == 2
    assert "nowhere.yaml" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.engine
def test_the_script_runs_in_the_foreground_until_the_end(sft_file: Callable[..., Path]) -> None:
    done = script("main_sl.py", "--config-file", str(sft_file()), "train.steps=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "state=finished" in done.stdout
    assert "step=3" in done.stdout


@pytest.mark.engine
def test_an_interrupted_script_stops_its_run(sft_file: Callable[..., Path]) -> None:
    """SIGTERM, which the script makes a KeyboardInterrupt; Ctrl-C is one from the start."""
    from oxrl_core import api

    path = sft_file(steps=1_000_000)
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "main_sl.py"), "--config-file", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not any(view.step for view in api.list_runs().runs):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the run took no step"
            time.sleep(0.25)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    view = api.get_run("latest")
    assert view.state == "stopped", output
    assert process.returncode == 143
    assert "state=stopped" in output
