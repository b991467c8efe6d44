"""Every model of the registry with every kind of training on every size of machine: a config that holds, or numbers."""

from __future__ import annotations

import re
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.config.deepspeed import deepspeed_config
from oxrl_core.config.load import load_config
from oxrl_core.config.registry import known_entry, model_entry, model_slugs
from oxrl_core.datasets.base import read_rows
from oxrl_core.errors import ConfigError, MachineError, ModelError
from swarm.configure import GeneratedConfig, generate_config

SLUGS = model_slugs()
ALGORITHMS = ("sft", "dpo", "sgrpo", "ppo", "rm")
MACHINES = ((0, 0.0), (1, 24.0), (1, 80.0), (8, 80.0))


_known_rows: dict[str, Any] = {}


def _read_rows(source: Any, seed: int, *, strict: bool = False) -> Any:
    key = f"{source.model_dump_json()} {seed} {strict}"
    if key not in _known_rows:
        _known_rows[key] = read_rows(source, seed, strict=strict)
    return _known_rows[key]


_model_entry = cache(model_entry)
_known_entry = cache(known_entry)


@pytest.fixture(autouse=True)
def data_at_hand(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that is never asked: models come from the registry, and the check must not call that an error."""
    from swarm.configure import generate
    from swarm.scout.facts import registry_facts

    monkeypatch.setattr(generate, "look_at", lambda model: registry_facts(model, ""))
    # The same files and the same drawn pictures are read 468 times.
    monkeypatch.setattr("oxrl_core.datasets.base.read_rows", _read_rows)
    for place in ("oxrl_core.config.layers", "oxrl_core.config.check_model"):
        monkeypatch.setattr(f"{place}.model_entry", _model_entry)
    monkeypatch.setattr("swarm.scout.facts.known_entry", _known_entry)
    monkeypatch.delenv("HF_HUB_OFFLINE")


def made(slug: str, algorithm: str, machine: tuple[int, float]) -> GeneratedConfig | MachineError:
    try:
        return generate_config(slug, algorithm, gpus=machine[0], gpu_memory_gib=machine[1])
    except MachineError as refusal:
        return refusal


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine[0]}x{machine[1]:g}")
def test_every_model_gets_a_config_that_holds_or_the_numbers(algorithm: str, machine: tuple[int, float]):
    from deepspeed.runtime.config import DeepSpeedConfig

    accepted: set[str] = set()
    for slug in SLUGS:
        result = made(slug, algorithm, machine)
        if isinstance(result, MachineError):
            assert machine[0] and len(re.findall(r"\d+\.\d", str(result))) >= 2, (slug, result)
            continue
        errors = [problem for problem in result.problems if problem.severity == "error"]
        assert result.valid and not errors, (slug, errors)
        config = load_config(Path(result.path)).config
        assert config.algorithm.name == algorithm and Path(result.path).read_text() == result.config_yaml
        entry = _model_entry(f"miniature:{slug}")
        assert entry is not None
        parameters = entry[1]["parameters"]
        if machine[0] and parameters >= 7e9:
            assert config.model.lora.enabled
        if not machine[0] and parameters > 5e8:
            assert config.model.path == f"miniature:{slug}"
        assert "{" not in "".join(choice.reason for choice in result.why)
        assert all(choice.reason for choice in result.why)
        if machine[0] > 1 and config.rollout.colocate:
            assert config.rollout.num_workers == config.train.num_workers == machine[0]
        said = deepspeed_config(config, 1, on_gpu=machine[0] > 0)
        if str(said) not in accepted:
            parsed = DeepSpeedConfig(said)
            assert parsed.zero_optimization_stage == said["zero_optimization"]["stage"]
            accepted.add(str(said))


def test_what_must_fit_does_and_what_cannot_does_not():
    fits = {
        (slug, machine): isinstance(made(slug, "sgrpo", machine), GeneratedConfig)
        for slug, machine in product(("qwen2.5-0.5b-instruct", "qwen2.5-7b-instruct", "qwen3.5-27b"), MACHINES[1:])
    }
    assert fits == {
        ("qwen2.5-0.5b-instruct", (1, 24.0)): True,
        ("qwen2.5-0.5b-instruct", (1, 80.0)): True,
        ("qwen2.5-0.5b-instruct", (8, 80.0)): True,
        ("qwen2.5-7b-instruct", (1, 24.0)): False,
        ("qwen2.5-7b-instruct", (1, 80.0)): True,
        ("qwen2.5-7b-instruct", (8, 80.0)): True,
        ("qwen3.5-27b", (1, 24.0)): False,
        ("qwen3.5-27b", (1, 80.0)): False,
        ("qwen3.5-27b", (8, 80.0)): True,
    }


def test_the_same_question_gives_the_same_file_and_overrides_win():
    first = generate_config("qwen3-0.6b", gpus=1, gpu_memory_gib=24)
    again = generate_config("qwen3-0.6b", gpus=1, gpu_memory_gib=24)
    other = generate_config("qwen3-0.6b", gpus=1, gpu_memory_gib=24, overrides=["train.steps=7", "model.lora.rank=4"])
    assert first.config_id == again.config_id != other.config_id
    assert load_config(other.config_yaml).config.train.steps == 7
    assert {choice.key: choice.reason for choice in other.why}["train.steps"] == "asked for"
    with pytest.raises(ConfigError, match=r"train\.stepz"):
        generate_config("qwen3-0.6b", gpus=0, overrides=["train.stepz=7"])


def test_each_value_stands_below_its_reason():
    text = generate_config("gemma-2-2b-it", gpus=1, gpu_memory_gib=24).config_yaml
    lines = text.splitlines()
    at = next(index for index, line in enumerate(lines) if "system_prompt" in line)
    above = " ".join(line.strip("# ") for line in lines[at - 3 : at])
    assert "no system role" in above
    assert "lr:" not in text  # what the preset of the algorithm says is not said again


def test_data_and_reward_that_are_asked_for_are_taken(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1", "answer": "2"}\n' * 4)
    result = generate_config("qwen3-0.6b", "sgrpo", str(rows), "exact", gpus=0)
    config = load_config(result.config_yaml).config
    assert config.data.train[0].name == str(rows) and config.reward.name == "exact" and config.data.eval == ()


def test_rlhf_waits_for_a_reward_model_and_takes_no_rule_in_its_place():
    found = generate_config("qwen3-0.6b", "rlhf", gpus=1, gpu_memory_gib=80)
    assert not found.valid and "reward.path" in {problem.where for problem in found.problems}
    assert "reward.name" not in {one.key for one in found.why}
    assert generate_config("qwen3-0.6b", "rlhf", gpus=1, gpu_memory_gib=80, reward="gsm8k").valid
    pairs = {one.key: one.reason for one in generate_config("qwen3-0.6b", "dpo", gpus=1, gpu_memory_gib=80).why}
    assert "preferred" in pairs["data.train"]


def test_what_cannot_be_trained_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from swarm.configure import generate
    from swarm.scout.inspection import look_at

    monkeypatch.setattr(generate, "look_at", look_at)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "trust_remote_code": true}')
    with pytest.raises(ModelError, match=r"trust.*no safetensors"):
        generate_config(str(tmp_path), gpus=0)
    with pytest.raises(ConfigError, match="how large"):
        generate_config("qwen3-0.6b", gpus=2)


def test_no_rule_waits_for_a_fact_that_nobody_knows():
    """Every condition and every word in braces is a fact of a real case, and every rule holds for some case."""
    from swarm.configure import rules

    assert rules.rule_book()["lengths"][-1]["when"] == {}
    held: set[int] = set()
    original = rules.holds

    def watch(when: dict, facts: dict) -> bool:
        answer = original(when, facts)
        if answer:
            held.add(id(when))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "holds", watch)
        for slug in ("gemma-2-2b-it", "qwen3-4b", "qwen3.5-35b-a3b", "qwen2.5-7b-instruct", "smollm2-135m-instruct"):
            for algorithm, machine in product(("sft", "sgrpo", "dpo", "ppo"), MACHINES):
                made(slug, algorithm, machine)
        generate_config("miniature:chars", "sgrpo", gpus=0)
        generate_config("phi-3.5-mini-instruct", "sgrpo", gpus=1, gpu_memory_gib=20)  # 384 KiB of cache a token
    unused = [rule for rule in rules.rule_book()["rules"] if id(rule["when"]) not in held]
    known = ("revision_known", "vllm")  # of the hub, and of an architecture that vLLM lacks
    assert [rule for rule in unused if not any(name in rule["when"] for name in known)] == []
