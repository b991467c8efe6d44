"""The memory plan against arithmetic by hand, and against a real engine on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from oxrl_core.config.shape import Shape, adapter_parameters, shape_of
from oxrl_core.engine.environment import engine_environment
from swarm.scout.memory import Ask, gradient_bytes, optimizer_bytes, plan_memory, weight_bytes
from swarm.scout.planning import Wish, plan_training

# A billion parameters in round numbers.
ROUND = Shape(
    parameters=2**30, hidden=1024, layers=16, heads=16, kv_heads=4, head_dim=64, intermediate=4096, vocabulary=65536,
    cached_layers=16,
)  # fmt: skip
FULL = Ask(gpus=1, gpu_memory_gib=80.0, zero_stage=2, micro_batch_tokens=1024)


def test_one_gpu_by_hand():
    view = plan_memory(ROUND, FULL)
    assert view.weights_gib == 2.0  # 2 bytes each
    assert view.gradients_gib == 4.0  # float32
    assert view.optimizer_gib == 12.0  # master and two moments
    # A layer and token: 2 (6*1024 + 2*1024 + 2*256 + 4*4096) + 8*1024 = 58,368 bytes; 16 layers, 1024 tokens.
    assert view.activations_gib == pytest.approx(58_368 * 16 * 1024 / 2**30, abs=0.005)
    assert view.logits_gib == 0.75  # 3 float32 tensors of 2^26 elements
    assert view.learner_gib == pytest.approx(2 + 4 + 12 + 58_368 / 2**16 + 0.75 + 1, abs=0.01)


def test_ranks_share_what_their_stage_shards():
    eight = replace(FULL, gpus=8, ranks=8)
    stages = {stage: plan_memory(ROUND, replace(eight, zero_stage=stage)) for stage in (0, 1, 2, 3)}
    shares = {stage: (view.weights_gib, view.gradients_gib, view.optimizer_gib) for stage, view in stages.items()}
    assert shares == {0: (2, 4, 8), 1: (2, 4, 1.5), 2: (2, 0.5, 1.5), 3: (0.25, 0.5, 1.5)}


def test_checkpointing_keeps_one_input_a_layer_and_one_whole_layer():
    view = plan_memory(ROUND, replace(FULL, checkpointing=True, micro_batch_tokens=16_384))
    assert view.activations_gib == pytest.approx((16 * 2 * 1024 + 58_368) * 16_384 / 2**30, abs=0.005)


def test_adapters_are_what_their_matrices_are():
    view = plan_memory(ROUND, replace(FULL, lora_rank=16))
    # q 2048, k and v 1280 each, o 2048, gate, up and down 5120 each: 22,016 inputs and outputs a layer.
    trained = 16 * 16 * 22_016
    assert view.gradients_gib == pytest.approx(4 * trained / 2**30, abs=0.005)
    assert view.weights_gib == 2.0


def test_the_cache_of_a_known_model():
    # Qwen2.5-7B: 28 layers, 4 key-value heads of 128, keys and values of 2 bytes: 56 KiB a token.
    shape = shape_of(
        {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4},
        7_615_616_512,
    )
    assert shape is not None
    view = plan_memory(shape, Ask(gpus=2, gpu_memory_gib=80, layout="apart", row_tokens=1024))
    assert view.kv_kib_per_token == 56
    assert view.sequences == pytest.approx(view.kv_gib * 2**20 / (56 * 1024), abs=2)


def test_windows_keep_no_more_than_themselves():
    window = replace(ROUND, cached_layers=4, window_layers=12, window=256)
    view = plan_memory(window, Ask(gpus=1, gpu_memory_gib=80, layout="colocated", row_tokens=1024))
    assert view.kv_kib_per_token == 2 * 256 * 2 * (4 + 12 / 4) / 1024


def test_a_refusal_has_the_numbers():
    plan = plan_training(replace(ROUND, parameters=70 * 10**9), Wish(1, 24.0, False, 2048, 0))
    # 130.4 GiB of weights, 1 of context, 0.3 of adapters and activations; 95 % of 24 GiB.
    assert not plan.fits and plan.memory.why == "a training GPU needs 131.7 GiB of 22.8"
    plan = plan_training(replace(ROUND, parameters=10 * 10**9), Wish(1, 24.0, True, 512, 512))
    assert not plan.fits and "sampler needs" in plan.memory.why


def test_the_first_way_that_fits_is_taken():
    small = plan_training(replace(ROUND, parameters=10**9), Wish(1, 80.0, False, 2048, 0))
    assert small.rung == "plain" and small.ask.lora_rank == 0
    tight = plan_training(replace(ROUND, parameters=10**9), Wish(1, 24.0, False, 2048, 0))
    assert tight.ask.lora_rank == 0 and tight.rung != "plain"
    assert plan_training(replace(ROUND, parameters=7 * 10**9), Wish(1, 80.0, False, 2048, 0)).ask.lora_rank == 16
    assert plan_training(replace(ROUND, parameters=6_999_999_999), Wish(8, 80.0, False, 2048, 0)).ask.lora_rank == 0
    sharded = plan_training(replace(ROUND, parameters=60 * 10**9), Wish(8, 80.0, False, 2048, 0))
    assert sharded.ask.zero_stage == 3 and sharded.fits
    # A tower cannot be sharded over ranks that see no pictures.
    seeing = plan_training(replace(ROUND, parameters=60 * 10**9, is_multimodal=True), Wish(8, 80.0, False, 2048, 0))
    assert not seeing.fits and seeing.ask.zero_stage == 2


# In a process of its own: what an engine leaves behind in its libraries is nobody else's business.
ENGINE = """
import json, sys
import torch
from pathlib import Path
from oxrl_core.config.load import load_config
from oxrl_core.engine.policy import PolicyEngine
from oxrl_core.models.miniature import make_miniature
from oxrl_core.types import TokenBatch

stage, folder = int(sys.argv[1]), make_miniature("qwen2.5-0.5b-instruct", Path(sys.argv[2]), seed=0)
source = {
    "run": {"name": "memory", "backend": "local"},
    "model": {"path": str(folder)},
    "data": {"train": "reverse3", "max_length": 64},
    "algorithm": {"name": "sft"},
    "deepspeed": {"zero_stage": stage},
}
engine = PolicyEngine(load_config(source).config, folder, rank=0, world_size=1, total_steps=1)
ids = torch.arange(3, 11)[None]
ones = torch.ones_like(ids)
batch = TokenBatch(
    input_ids=ids, attention_mask=ones.bool(), position_ids=torch.arange(8)[None], segment_ids=ones,
    completion_mask=ones.bool(),
)
logprobs, _ = engine.logprobs(batch, 1.0)
engine.backward(-logprobs.sum(), last=True)
engine.step()
size = lambda tensors: sum(tensor.numel() * tensor.element_size() for tensor in tensors)
optimizer = engine.engine.optimizer
states = (optimizer if stage == 0 else optimizer.optimizer).state.values()
moments = [value for state in states for value in state.values() if torch.is_tensor(value) and value.numel() > 1]
masters = optimizer.single_partition_of_fp32_groups if stage else []
found = {"weights": size(engine.policy.parameters()), "optimizer": size(moments) + size(masters)}
print("found", json.dumps({"parameters": engine.num_parameters, **found}))
"""


@pytest.mark.engine
@pytest.mark.parametrize("stage", [0, 2])
def test_a_real_engine_holds_what_the_plan_says(stage: int, tmp_path: Path):
    environment = {**engine_environment(), **os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ENGINE, str(stage), str(tmp_path / "model")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    found = json.loads(line.removeprefix("found "))
    shape = shape_of({"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}, found["parameters"])
    assert shape is not None
    ask = Ask(gpus=0, gpu_memory_gib=0, zero_stage=stage, layout="cpu")
    assert weight_bytes(shape, ask) == found["weights"]
    assert optimizer_bytes(shape, ask) == pytest.approx(found["optimizer"], rel=0.001)  # partitions are padded


def test_models_beside_the_policy_are_counted():
    alone = plan_memory(ROUND, FULL)
    critic = plan_memory(ROUND, replace(FULL, has_critic=True))
    assert critic.beside_gib == 18.0  # 2 of weights, 4 of gradients, 12 of optimizer once more
    assert critic.learner_gib - alone.learner_gib == pytest.approx(18.0, abs=0.01)
    teacher = plan_memory(ROUND, replace(FULL, teacher_parameters=2**31))
    assert teacher.learner_gib - alone.learner_gib == pytest.approx(4.0, abs=0.01)  # 2 bytes each, whole on the rank
    judged = plan_memory(ROUND, replace(FULL, scorer_parameters=2**28))
    assert judged.host_gib - alone.host_gib == pytest.approx(1.0, abs=0.01)  # 4 bytes each, in a process of its own
    assert judged.learner_gib == alone.learner_gib


def test_packed_experts_have_no_adapters():
    config = {
        "hidden_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 2,
        "head_dim": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
    }  # fmt: skip
    shape = shape_of(config, 10**9)
    assert shape is not None
    # q and o: 2048 + 4096 each; k and v: 2048 + 512 each; the shared expert: 3 (2048 + 512). Rank 16, two layers.
    assert adapter_parameters(shape, 16) == 2 * 16 * (2 * 6144 + 2 * 2560 + 3 * 2560)
    assert shape.intermediate == 8 * 512 + 512


@pytest.mark.parametrize("slug", ["qwen3-0.6b", "qwen3.5-35b-a3b", "phi-4", "gemma-3-4b-it"])
def test_the_check_before_a_launch_counts_the_adapters_that_the_scout_counts(slug: str):
    from oxrl_core.config.case import Case
    from oxrl_core.config.check_model import ModelFacts
    from oxrl_core.config.check_sizes import _trained_share
    from oxrl_core.config.load import load_config
    from oxrl_core.config.machine import this_machine
    from oxrl_core.config.registry import entry_of_slug

    entry = entry_of_slug(slug)
    assert entry is not None
    shape = shape_of(entry["architecture"], entry["parameters"])
    assert shape is not None
    text = (
        f"run: {{name: a}}\nmodel: {{path: {entry['hub']}, lora: {{enabled: true, rank: 16}}}}\ndata: {{train: copy3}}"
    )
    case = Case(load_config(text).config, Path(), this_machine(Path()))
    facts = ModelFacts(num_parameters=entry["parameters"], hidden=shape.hidden, shape=shape)
    planned = gradient_bytes(shape, replace(FULL, lora_rank=16)) / 4  # float32 gradients of what is trained
    assert _trained_share(case, facts) * entry["parameters"] == pytest.approx(planned)
