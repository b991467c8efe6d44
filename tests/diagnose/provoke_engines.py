"""Failures of DeepSpeed, vLLM and Ray, made to happen."""

from __future__ import annotations

import os

from provocations import TINY, folder, provokes


@provokes("deepspeed", "ds_batch")
def _():
    from deepspeed.runtime.config import DeepSpeedConfig

    sizes = {"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1}
    DeepSpeedConfig(sizes)


@provokes("deepspeed", "loss_scale")
def _():
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    scaler = DynamicLossScaler(
        init_scale=1, scale_window=1, min_scale=1, delayed_shift=1, consecutive_hysteresis=False,
        raise_error_at_min_scale=True,
    )  # fmt: skip
    scaler.update_scale(True)


@provokes("deepspeed", "ds_cuda_home")
def _():
    from deepspeed.ops.op_builder.builder import installed_cuda_version

    installed_cuda_version()


@provokes("vllm", "vllm_kv_none")
def _():
    from vllm.v1.core.kv_cache_utils import _check_enough_kv_cache_memory

    _check_enough_kv_cache_memory(0, lambda: 1, 16, lambda room: 0)


@provokes("vllm", "vllm_kv_small")
def _():
    from vllm.v1.core.kv_cache_utils import _check_enough_kv_cache_memory

    _check_enough_kv_cache_memory(2**20, lambda: 2**30, 4096, lambda room: 128)


def vllm_model(**more: object):
    from vllm.config import ModelConfig

    facts = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, **TINY}
    return ModelConfig(model=str(folder(config__json=facts)), skip_tokenizer_init=True, dtype="float32", **more)


@provokes("vllm", "vllm_len_derived")
def _():
    vllm_model(max_model_len=100_000)


@provokes("vllm", "vllm_tp_heads")
def _():
    from types import SimpleNamespace

    sizes = SimpleNamespace(
        tensor_parallel_size=3, pipeline_parallel_size=1, enable_expert_parallel=False, enable_hc_sp=False,
        distributed_executor_backend="mp", decode_context_parallel_size=1,
    )  # fmt: skip
    vllm_model().verify_with_parallel_config(sizes)


@provokes("vllm", "vllm_lora_rank")
def _():
    from types import SimpleNamespace

    from vllm.lora.peft_helper import PEFTHelper

    helper = PEFTHelper.from_dict({"r": 64, "lora_alpha": 8, "target_modules": ["q_proj"]})
    helper.validate_legal(SimpleNamespace(max_lora_rank=16))


@provokes("vllm", "vllm_arch")
def _():
    from vllm.config import ModelConfig

    facts = {"model_type": "llama", "architectures": ["NonesuchForCausalLM"], "max_position_embeddings": 64, **TINY}
    path = folder(config__json=facts)
    ModelConfig(model=str(path), skip_tokenizer_init=True, dtype="float32", model_impl="vllm")


def with_ray():
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                 _node_ip_address="127.0.0.1")  # fmt: skip
    return ray


@provokes("ray", "ray_get_timeout")
def _():
    ray = with_ray()
    ray.get(ray.remote(num_gpus=7)(lambda: 1).remote(), timeout=0.5)


@provokes("ray", "ray_init_cause")
def _():
    ray = with_ray()

    class Broken:
        def __init__(self):
            raise RuntimeError("its own fault")

        def ready(self):
            return True

    ray.get(ray.remote(Broken).remote().ready.remote(), timeout=60)


@provokes("ray", "ray_sigkill")
def _():
    ray = with_ray()

    class Killed:
        def leave(self):
            os.kill(os.getpid(), 9)

    ray.get(ray.remote(Killed).remote().leave.remote(), timeout=60)


@provokes("deepspeed", "ds_cuda_mismatch")
def _():
    import torch
    from deepspeed.ops.op_builder import builder
    from torch.utils import cpp_extension

    home = folder()
    (home / "bin").mkdir()
    compiler = home / "bin" / "nvcc"
    compiler.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.0, V11.0.194'\n")
    compiler.chmod(0o755)
    before = cpp_extension.CUDA_HOME, torch.version.cuda
    cpp_extension.CUDA_HOME, torch.version.cuda = str(home), "12.8"
    try:
        builder.assert_no_cuda_mismatch("an op")
    finally:
        cpp_extension.CUDA_HOME, torch.version.cuda = before


@provokes("vllm", "vllm_gpu_busy")
def _():
    from types import SimpleNamespace

    from vllm.v1.worker.utils import request_memory

    snapshot = SimpleNamespace(free_memory=2**33, total_memory=2**36, device_="cuda:0", device="cuda:0")
    request_memory(snapshot, SimpleNamespace(gpu_memory_utilization=0.9))


@provokes("vllm", "vllm_prompt_long")
def _():
    from types import SimpleNamespace

    from vllm.renderers.params import TokenizeParams

    limits = TokenizeParams(max_total_tokens=8, max_output_tokens=1)
    limits._text_len_check(SimpleNamespace(max_chars_per_token=1), "a" * 100)


@provokes("vllm", "vllm_core_dead")
def _():
    from vllm.v1.engine.exceptions import EngineDeadError

    raise EngineDeadError  # as its client raises it when the engine's process has ended


@provokes("ray", "ray_version")
def _():
    from ray._private.utils import check_version_info

    check_version_info(
        {"ray_version": "1.0.0", "python_version": "3.6.9"}, "this process", python_version_match_level="minor"
    )
