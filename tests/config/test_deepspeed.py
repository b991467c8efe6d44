"""DeepSpeed's JSON: our switches in its words, and nothing that would crash it."""

from __future__ import annotations

import itertools
import json

import pytest

from oxrl_core.config.deepspeed import deepspeed_config
from oxrl_core.config.load import load_config

SOURCE = {"run": {"name": "r"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}


def settings(*overrides, world_size=2, **kwargs):
    return deepspeed_config(load_config(SOURCE, overrides).config, world_size, **kwargs)


def no_nulls(value) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return value is not None and all(no_nulls(item) for item in items)


@pytest.mark.parametrize(("stage", "on_gpu"), itertools.product(range(4), (False, True)))
def test_there_is_never_a_null_and_it_is_json(stage, on_gpu):
    result = settings(f"deepspeed.zero_stage={stage}", on_gpu=on_gpu)
    assert no_nulls(result) and json.loads(json.dumps(result)) == result


def test_accumulation_and_scaling_are_ours():
    result = settings(world_size=4)
    assert result["gradient_accumulation_steps"] == 1 and result["train_micro_batch_size_per_gpu"] == 1
    assert result["train_batch_size"] == 4
    assert result["zero_allow_untested_optimizer"] is True and result["zero_force_ds_cpu_optimizer"] is False


def test_clipping_stage_and_buckets_are_those_of_the_config():
    result = settings("train.max_grad_norm=0.5", "deepspeed.zero_stage=3", "deepspeed.bucket_size=1000", whole_below=64)
    assert result["gradient_clipping"] == 0.5
    zero = result["zero_optimization"]
    assert (zero["stage"], zero["reduce_bucket_size"], zero["stage3_param_persistence_threshold"]) == (3, 1000, 64)


def test_bfloat16_keeps_float32_masters_and_sums():
    result = settings("deepspeed.zero_stage=0", on_gpu=True)  # precision auto
    assert result["bf16"] == {"enabled": True} and result["zero_optimization"]["stage"] == 1
    assert result["data_types"] == {"grad_accum_dtype": "fp32"} and result["communication_data_type"] == "fp32"
    assert "bf16" not in settings("deepspeed.zero_stage=0") and "fp16" not in result


def test_offloading_goes_to_the_host():
    zero = settings(
        "deepspeed.zero_stage=3", "deepspeed.offload_optimizer=true", "deepspeed.offload_params=true", on_gpu=True
    )["zero_optimization"]
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert "offload_param" not in settings("deepspeed.zero_stage=3")["zero_optimization"]


def test_deepspeed_itself_accepts_it():
    from deepspeed.runtime.config import DeepSpeedConfig

    for stage in range(4):
        parsed = DeepSpeedConfig(settings(f"deepspeed.zero_stage={stage}", world_size=1))
        assert parsed.zero_optimization_stage == stage and parsed.gradient_clipping == 1.0
