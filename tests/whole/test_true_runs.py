"""Real runs, launched as anyone would launch them: detached, on Ray, DeepSpeed and vLLM, with tiny models."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from oxrl_core import api
from oxrl_core.config.load import load_config
from oxrl_core.rollout.recorder import read_rollouts
from oxrl_core.runs.rundir import RunDir

ROOT = Path(__file__).parent.parent.parent
GSM8K = ROOT / "tests" / "fixtures" / "gsm8k"
MINUTES = 60.0

pytestmark = pytest.mark.engine


def finish(run_id: str, home: Path, limit_seconds: float = 5 * MINUTES) -> RunDir:
    """The run directory of a run that finished; fails with the run's own words where it did not."""
    deadline = time.monotonic() + limit_seconds
    for view in api.follow(run_id, home=home):
        if time.monotonic() > deadline:
            api.stop_run(run_id, reason="test deadline", force=True, home=home)
            pytest.fail(f"{run_id} was still {view.state} ({view.phase}, step {view.step}) after {limit_seconds} s")
    log = "\n".join(api.read_logs(run_id, lines=60, home=home).lines)
    assert view.state == "finished", f"{view.error}\n{log}"
    return RunDir(view.path)


def launch(config: str, overrides: list[str], home: Path) -> str:
    return api.launch_run(config, overrides, home=home).run_id


def processes_of(run_id: str) -> list[int]:
    """Every living process that carries the run's id in its environment."""
    mine = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("OXRL_RUN_ID") == run_id and process.status() != psutil.STATUS_ZOMBIE:
                mine.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return mine


def test_copy3_is_learned_on_ray_deepspeed_and_vllm(tmp_path):
    run = finish(launch("copy3", ["train.steps=60", "rollout.engine=vllm", "run.backend=ray"], tmp_path), tmp_path)
    rows = run.metrics()
    rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
    assert len(rewards) == 60
    first, last = sum(rewards[:10]) / 10, sum(rewards[-10:]) / 10
    assert last > first + 0.2, (first, last)
    assert max(row["gap/max"] for row in rows if "gap/max" in row) < 1e-4
    assert max(row["sync/fingerprint"] for row in rows) < 1e-4
    assert [row["policy_version"] for row in rows] == list(range(61))
    recorded = read_rollouts(run.path / "rollouts" / "step-00000060.parquet")
    assert all(len(row["completion_token_ids"]) == len(row["rollout_logprobs"]) for row in recorded)
    assert processes_of(run.run_id) == []


def test_sgrpo_on_two_zero3_ranks(tmp_path):
    overrides = [
        "train.steps=3",
        "train.num_workers=2",
        "deepspeed.zero_stage=3",
        "rollout.engine=vllm",
        "train.prompts_per_step=6",
        "rollout.group_size=4",
    ]
    run = finish(launch("copy3", overrides, tmp_path), tmp_path)
    rows = run.metrics()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert max(row["gap/max"] for row in rows[1:]) < 1e-4  # two sharded ranks and vLLM still speak of one policy
    assert all(row["grad_norm"] > 0 for row in rows[1:])


@pytest.mark.parametrize("lora", [False, True])
def test_sft_on_two_zero3_ranks_learns_real_gsm8k_rows(tmp_path, lora):
    overrides = [
        f"data.train={GSM8K / 'train.jsonl'}",
        f"data.eval={GSM8K / 'test.jsonl'}",
        "model.path=miniature:qwen2.5-0.5b-instruct",
        "train.steps=8",
        "train.lr=3e-3",
        "train.rows_per_step=8",
        "train.eval_rows=16",
        "train.num_workers=2",
        "deepspeed.zero_stage=3",
        f"model.lora.enabled={json.dumps(lora)}",
    ]
    run = finish(launch("gsm8k-sft", overrides, tmp_path), tmp_path)
    rows = run.metrics()
    held_out = [row["eval/loss"] for row in rows if "eval/loss" in row]
    assert held_out[-1] < held_out[0]
    assert len([row for row in rows if "loss" in row]) == 8


def test_a_reward_model_is_trained_served_and_optimised_against(tmp_path):
    """RLHF from pairs to policy: on Ray, with vLLM, the reward model in a worker of its own."""
    local = ["run.backend=local", "rollout.engine=transformers"]
    taught = finish(launch("sft", [*local, "train.steps=25"], tmp_path), tmp_path)
    model = finish(launch("rm", local, tmp_path), tmp_path)
    accuracy = [row["eval/preference/accuracy"] for row in model.metrics() if "eval/preference/accuracy" in row]
    assert accuracy[-1] > 0.8
    overrides = [f"model.path=run:{taught.run_id}", f"reward.path=run:{model.run_id}", "train.steps=12"]
    run = finish(launch("rlhf", [*overrides, "rollout.engine=vllm"], tmp_path), tmp_path)
    rows = run.metrics()
    scores = [row["reward/mean"] for row in rows if "reward/mean" in row]
    assert sum(scores[-3:]) > sum(scores[:3])
    assert max(row["gap/max"] for row in rows[1:]) < 1e-4
    assert rows[-1]["reward_model/scored"] > 0
    assert rows[-1]["reward_model/unscored"] == 0
    assert processes_of(run.run_id) == []


def test_ppo_on_two_ranks_with_a_critic_beside_the_policy(tmp_path):
    overrides = ["train.steps=3", "train.num_workers=2", "deepspeed.zero_stage=2", "rollout.engine=vllm"]
    run = finish(launch("ppo", [*overrides, "train.prompts_per_step=8"], tmp_path), tmp_path)
    rows = run.metrics()
    assert max(row["gap/max"] for row in rows[1:]) < 1e-4
    assert all(row["value/grad_norm"] > 0 and row["grad_norm"] > 0 for row in rows[1:])
    (checkpoint,) = [path for path in run.checkpoints.iterdir() if path.name.startswith("step_")]
    assert sorted(path.name for path in (checkpoint / "critic").glob("*.safetensors")) == [
        "rank-00000.safetensors",
        "rank-00001.safetensors",
    ]


def test_dpo_with_adapters_on_two_zero3_ranks(tmp_path):
    overrides = ["train.steps=6", "train.num_workers=2", "deepspeed.zero_stage=3", "model.lora.enabled=true"]
    run = finish(launch("dpo", [*overrides, "train.lr=1e-2"], tmp_path), tmp_path)
    rows = run.metrics()
    assert rows[1]["preference/margin"] == 0  # the reference is the base with the adapter off: the very same policy
    assert rows[-1]["preference/margin"] > 0
    assert (run.path / "final" / "adapter").is_dir()


def test_reverse4_goes_from_sft_to_sgrpo_in_one_process(tmp_path):
    local = ["run.backend=local", "rollout.engine=transformers"]
    taught = finish(launch("reverse4-sft", [*local, "train.eval_rows=64"], tmp_path), tmp_path)
    overrides = [*local, f"model.path=run:{taught.run_id}", "train.steps=30", "train.stop_at_reward=null"]
    rows = finish(launch("reverse4", overrides, tmp_path), tmp_path).metrics()
    rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
    untaught = 1 / 5  # a policy that knows nothing gets about a fifth of the positions right
    assert rewards[0] > untaught + 0.1, "SGRPO did not start from the weights that SFT left"
    assert sum(rewards[-5:]) > sum(rewards[:5])


def test_a_stopped_run_saves_leaves_no_process_and_goes_on_where_it_was(tmp_path):
    run_id = launch("copy3", ["train.steps=100000", "run.stop_grace_seconds=30", "rollout.engine=vllm"], tmp_path)
    deadline = time.monotonic() + 3 * MINUTES
    for view in api.follow(run_id, home=tmp_path):
        assert time.monotonic() < deadline and not view.has_ended, view
        if view.step >= 3:
            break
    assert len(processes_of(run_id)) > 3
    stopped = api.stop_run(run_id, reason="the test says so", home=tmp_path)
    assert stopped.state == "stopped"
    assert processes_of(run_id) == []
    run = RunDir(stopped.path)
    (checkpoint,) = [path for path in run.checkpoints.iterdir() if path.name.startswith("step_")]
    step = int(checkpoint.name.removeprefix("step_"))
    assert step >= 3

    # The same directory again, in one process and with an end in sight.
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("backend: ray", "backend: local"))
    drive(run, step + 2)
    assert [row["step"] for row in run.metrics()] == list(range(step + 3))
    assert any(event["code"] == "resumed" for event in run.events())


def drive(run: RunDir, steps: int) -> None:
    """The driver of a run directory, in the foreground, until it has taken so many steps in all."""
    config = run.path / "config.yaml"
    config.write_text(re.sub(r"^  steps: \d+$", f"  steps: {steps}", config.read_text(), flags=re.MULTILINE))
    command = [sys.executable, "-m", "oxrl_core.driver", "--run-dir", str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_that_went_on_ends_bit_for_bit_like_one_that_was_never_interrupted(tmp_path):
    overrides = ["run.backend=local", "rollout.engine=transformers", "train.steps=4"]
    whole, broken = (RunDir.create(tmp_path, load_config("copy3", overrides), kind="rl") for _ in range(2))
    drive(whole, 4)
    drive(broken, 2)
    drive(broken, 4)
    weights = [(run.path / "final" / "model.safetensors").read_bytes() for run in (whole, broken)]
    assert weights[0] == weights[1]
    measured = [[(row["step"], row["reward/mean"]) for row in run.metrics(from_step=1)] for run in (whole, broken)]
    assert measured[0] == measured[1]


def test_a_reward_that_cannot_judge_fails_the_run_with_a_next_step(tmp_path):
    overrides = ["reward.name=math:factorial", "run.backend=local", "rollout.engine=transformers", "train.steps=2"]
    run_id = launch("copy3", overrides, tmp_path)
    *_, view = api.follow(run_id, home=tmp_path)
    assert view.state == "failed"
    assert view.error is not None and view.error.code == "RewardError"
    assert view.error.next


def test_a_run_survives_the_one_who_launched_it(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from oxrl_core import api\n"
        "run = api.launch_run('copy3', ['train.steps=3', 'run.backend=local', 'rollout.engine=transformers'],"
        " home=Path(sys.argv[1]))\n"
        "print(run.run_id, flush=True); time.sleep(600)\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert launcher.stdout is not None
    run_id = launcher.stdout.readline().strip()
    launcher.send_signal(signal.SIGKILL)
    launcher.wait(timeout=10)
    assert len(finish(run_id, tmp_path).metrics()) == 4
