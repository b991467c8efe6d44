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
}  # fmt: skip
SCIENCE = {
    "a group of one": ["rollout.group_size=1"],
    "cut sampling": ["rollout.top_p=0.9"],
    "dropout in RL": ["model.lora.enabled=true", "model.lora.dropout=0.1"],
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


@pytest.mark.parametrize("fault", SCIENCE)
def test_a_remedy_that_changes_the_science_waits_for_the_policy(fault: str, tmp_path: Path) -> None:
    faults = SCIENCE[fault]
    assert not validate_config(BASE, faults, home=tmp_path).ok
    attempts, left = repair_alone(BASE, faults, tmp_path, Policy())
    assert (attempts, bool(left)) == (0, True)
    attempts, left = repair_alone(BASE, faults, tmp_path, Policy(science_changes=True))
    assert (attempts, left) == (1, [])
