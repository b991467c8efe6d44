"""Configurations that are refused before anything starts, and whether the rules repair them without a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from oxrl_core.api import validate_config
from oxrl_core.api.configs import load_checked, report_of
from oxrl_core.errors import OxrlError
from swarm.bugfix.gate import as_override, check_invariants, settings_of
from swarm.bugfix.outcome import Outcome, refused
from swarm.bugfix.plan import candidates
from swarm.bugfix.policy import Policy

BASE = """
run: {name: broken, backend: local}
model: {path: 'miniature:chars'}
data: {train: reverse3, max_prompt_tokens: 8}
reward: {name: positions}
algorithm: {name: sgrpo}
rollout: {engine: transformers, group_size: 4, max_completion_tokens: 4}
train: {prompts_per_step: 4, steps: 4}
"""
PAIRS = BASE.replace("reverse3", "reverse3-pairs").replace("name: sgrpo", "name: dpo")
SFT = """
run: {name: broken, backend: local}
model: {path: 'miniature:chars'}
data: {train: reverse3, max_length: 16}
algorithm: {name: sft}
train: {rows_per_step: 4, steps: 4}
"""
RAY = "run.backend=ray"
LORA = "model.lora.enabled=true"
FLASH, OFFLOAD = "model.attention=flash_attention_2", "deepspeed.offload_optimizer=true"
PARAMS = "deepspeed.offload_params=true"
SAFE = {
    "flash attention on a CPU": (BASE, ["model.attention=flash_attention_2"]),
    "flash attention in float32": (BASE, ["model.attention=flash_attention_2", "model.precision=float32"]),
    "a model in four parts": (BASE, ["rollout.tensor_parallel=4"]),
    "three parts and flash attention": (BASE, ["rollout.tensor_parallel=3", "model.attention=flash_attention_2"]),
    "offloaded optimizer": (BASE, ["deepspeed.offload_optimizer=true"]),
    "offloaded optimizer without shards": (BASE, ["deepspeed.offload_optimizer=true", "deepspeed.zero_stage=0"]),
    "offloaded weights": (BASE, ["deepspeed.offload_params=true", "deepspeed.zero_stage=3"]),
    "offloaded weights at ZeRO 2": (BASE, ["deepspeed.offload_params=true", "deepspeed.zero_stage=2"]),
    "two ranks in one process": (BASE, ["train.num_workers=2"]),
    "forty ranks": (BASE, ["run.backend=ray", "train.num_workers=40"]),
    "sixty samplers": (BASE, ["run.backend=ray", "rollout.num_workers=60"]),
    "colocated, two samplers": (BASE, ["run.backend=ray", "rollout.colocate=true", "rollout.num_workers=2"]),
    "more ranks than rollouts": (BASE, ["run.backend=ray", "train.num_workers=16", "train.prompts_per_step=2"]),
    "packed pairs": (PAIRS, ["data.packing=true"]),
    "examples, flash attention": (SFT, [FLASH]),
    "examples, offloaded optimizer": (SFT, [OFFLOAD]),
    "examples, offloaded weights": (SFT, [PARAMS, "deepspeed.zero_stage=3"]),
    "examples, two ranks in one process": (SFT, ["train.num_workers=2"]),
    "examples, thirty ranks": (SFT, [RAY, "train.num_workers=30"]),
    "examples, more ranks than rows": (SFT, [RAY, "train.num_workers=3", "train.rows_per_step=2"]),
    "pairs, flash attention": (PAIRS, [FLASH]),
    "packed pairs, flash attention": (PAIRS, ["data.packing=true", FLASH]),
    "pairs, offloaded without shards": (PAIRS, [OFFLOAD, "deepspeed.zero_stage=0"]),
    "pairs, two ranks in one process": (PAIRS, ["train.num_workers=2"]),
    "a model in two parts": (BASE, ["rollout.tensor_parallel=2"]),
    "a model in three parts on Ray": (BASE, [RAY, "rollout.tensor_parallel=3"]),
    "eight parts, offloaded": (BASE, ["rollout.tensor_parallel=8", OFFLOAD]),
    "a hundred samplers": (BASE, [RAY, "rollout.num_workers=100"]),
    "twenty ranks and samplers": (BASE, [RAY, "train.num_workers=20", "rollout.num_workers=20"]),
    "colocated, three samplers": (BASE, [RAY, "rollout.colocate=true", "rollout.num_workers=3"]),
    "colocated, two ranks": (BASE, [RAY, "rollout.colocate=true", "train.num_workers=2"]),
    "colocated and ahead": (BASE, [RAY, "rollout.pipeline=1", "rollout.colocate=true", "algorithm.mismatch=tis"]),
    "a cluster without Ray": (BASE, ["run.ray_address=auto"]),
    "a cache larger than the machine": (BASE, [RAY, "rollout.engine=vllm", "rollout.cpu_kv_cache_gib=64"]),
    "a million checkpoints": (BASE, ["train.keep_checkpoints=1000000"]),
    "more than all memory": (BASE, ["rollout.memory_fraction=1.5"]),
    "no tokens at a time": (BASE, ["train.micro_batch_tokens=0"]),
    "an empty bucket": (BASE, ["deepspeed.bucket_size=0"]),
    "no time to start": (BASE, ["run.start_timeout_seconds=0"]),
    "less than no time": (BASE, ["run.call_timeout_seconds=-1"]),
    "no time to judge": (BASE, ["reward.timeout_seconds=0"]),
    "less than no retry": (BASE, ["rollout.retries=-1"]),
    "no checkpoint kept": (BASE, ["train.keep_checkpoints=0"]),
    "an attention nobody knows": (BASE, ["model.attention=flash"]),
    "an engine nobody knows": (BASE, ["rollout.engine=vlm"]),
    "a backend nobody knows": (BASE, ["run.backend=rey"]),
    "a precision nobody knows": (BASE, ["model.precision=bf16"]),
    "a sink nobody knows": (BASE, ["report.sinks=[neptune]"]),
    "adapters, offloaded": (BASE, [LORA, OFFLOAD]),
    "adapters, flash attention": (BASE, [LORA, FLASH]),
    "adapters, two parts": (BASE, [LORA, "rollout.tensor_parallel=2"]),
    "three faults at once": (BASE, [FLASH, OFFLOAD, "rollout.tensor_parallel=4"]),
    "both offloaded": (BASE, [OFFLOAD, PARAMS, "deepspeed.zero_stage=3"]),
    "offloaded weights at ZeRO 1": (BASE, [PARAMS, "deepspeed.zero_stage=1"]),
}  # fmt: skip
SCIENCE = {
    "a group of one": ["rollout.group_size=1"],
    "cut sampling": ["rollout.top_p=0.9"],
    "dropout in RL": ["model.lora.enabled=true", "model.lora.dropout=0.1"],
}
# What no rule may touch: it would be another experiment, or less of one.
NEVER = {
    "no steps": ["train.steps=0"],
    "no learning rate": ["train.lr=0"],
    "half a row": ["train.prompts_per_step=0"],
    "another algorithm": ["algorithm.name=sgrpoo"],
    "another reward": ["reward.name=positionss"],
    "a model that is not there": ["model.path=/no/such/model"],
    "data that is not there": ["data.train=/no/such/rows.jsonl"],
    "a temperature of zero": ["rollout.temperature=-1"],
}


def refusal(text: str, overrides: list[str], home: Path) -> Outcome | None:
    try:
        report = report_of(load_checked(text, overrides), home)
    except OxrlError as error:
        return refused(error)
    return None if report.ok else refused(problems=[p for p in report.problems if p.severity == "error"])


def repair_alone(text: str, faults: list[str], home: Path, policy: Policy) -> tuple[int, list[str]]:
    """How many patches it took until the configuration was accepted, and what is left to be refused."""
    overrides, tried = list(faults), list[tuple[str, object]]()
    for attempt in range(4):
        outcome = refusal(text, overrides, home)
        if outcome is None:
            before, _ = settings_of(text, [])
            after, failure = settings_of(text, overrides)
            assert failure is None
            if not policy.science_changes:
                check_invariants({**before, "train": after["train"]}, after, [])
            return attempt, []
        settings, _ = settings_of(text, overrides)
        found = [one for one in candidates(outcome, None, settings, policy, tried) if not one.refused]
        if not found:
            return attempt, [problem.what for problem in outcome.problems]
        tried += [(change.path, change.new) for change in found[0].changes]
        overrides += [as_override(change) for change in found[0].changes]
    return 4, ["four attempts were not enough"]


@pytest.mark.parametrize("fault", SAFE)
def test_a_fault_with_a_safe_remedy_is_repaired_without_a_person(fault: str, tmp_path: Path) -> None:
    text, faults = SAFE[fault]
    assert refusal(text, faults, tmp_path) is not None
    attempts, left = repair_alone(text, faults, tmp_path, Policy())
    assert not left and 1 <= attempts <= 3


def test_there_are_fifty_of_them() -> None:
    assert len(SAFE) >= 50


@pytest.mark.parametrize("fault", NEVER)
@pytest.mark.parametrize("science", [False, True])
def test_what_is_measured_and_how_much_is_done_is_left_to_a_person(fault: str, science: bool, tmp_path: Path) -> None:
    assert refusal(BASE, NEVER[fault], tmp_path) is not None
    attempts, left = repair_alone(BASE, NEVER[fault], tmp_path, Policy(science_changes=science))
    assert (attempts, bool(left)) == (0, True)


@pytest.mark.parametrize("fault", SCIENCE)
def test_a_remedy_that_changes_the_science_waits_for_the_policy(fault: str, tmp_path: Path) -> None:
    faults = SCIENCE[fault]
    assert not validate_config(BASE, faults, home=tmp_path).ok
    attempts, left = repair_alone(BASE, faults, tmp_path, Policy())
    assert (attempts, bool(left)) == (0, True)
    attempts, left = repair_alone(BASE, faults, tmp_path, Policy(science_changes=True))
    assert (attempts, left) == (1, [])
