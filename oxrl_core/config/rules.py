"""Values that are each allowed and cannot be meant together. Every rule says why, and what to change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.config.schema import Config


@dataclass(frozen=True)
class Contradiction:
    """A key whose value cannot be meant beside the others."""

    key: str
    reason: str
    fix: str


def find_contradictions(config: Config) -> list[Contradiction]:
    """Every pair of values that excludes each other; empty for a config that can be meant."""
    is_rl = get_algorithm(config.algorithm.name).kind == "rl"
    return [*_of_any_run(config), *(_of_rl(config) if is_rl else _of_supervised(config))]


def _of_any_run(config: Config) -> Iterator[Contradiction]:
    deepspeed, train = config.deepspeed, config.train
    if deepspeed.offload_params and deepspeed.zero_stage != 3:
        yield Contradiction(
            "deepspeed.offload_params",
            f"only ZeRO 3 shards the weights, and zero_stage is {deepspeed.zero_stage}",
            "set deepspeed.zero_stage: 3, or offload_params: false",
        )
    if deepspeed.offload_optimizer and deepspeed.zero_stage == 0:
        yield Contradiction(
            "deepspeed.offload_optimizer",
            "ZeRO 0 shards no optimizer state that could move to the host",
            "set deepspeed.zero_stage to 1, 2 or 3, or offload_optimizer: false",
        )
    if config.model.attention == "flash_attention_2" and config.model.precision == "float32":
        yield Contradiction(
            "model.attention",
            "flash_attention_2 computes in 16 bits and precision is float32",
            "set model.precision: bfloat16, or model.attention: sdpa",
        )
    if train.lr_floor > 0 and train.lr_schedule == "constant":
        yield Contradiction(
            "train.lr_floor",
            "a constant schedule never falls, so a floor has no effect",
            "set train.lr_schedule: linear or cosine, or lr_floor: 0",
        )
    if config.run.backend == "local" and config.run.ray_address is not None:
        yield Contradiction(
            "run.ray_address",
            "the local backend uses no Ray cluster",
            "set run.backend: ray, or ray_address: null",
        )
    launched_ranks = os.environ.get("WORLD_SIZE", "1")  # torchrun starts one process per rank
    if config.run.backend == "local" and train.num_workers > 1 and launched_ranks != str(train.num_workers):
        yield Contradiction(
            "train.num_workers",
            f"the local backend is one process, and one process is one training rank, not {train.num_workers}",
            f"set run.backend: ray, or start it with torchrun --nproc-per-node {train.num_workers}",
        )


def _of_rl(config: Config) -> Iterator[Contradiction]:
    rollout, train = config.rollout, config.train
    if rollout.group_size == 1:
        yield Contradiction(
            "rollout.group_size",
            f"algorithm.advantage {config.algorithm.advantage} compares the completions of one prompt with each other, "
            "and a group of 1 has nothing to compare with",
            "set rollout.group_size to 2 or more (8 is usual)",
        )
    if config.model.lora.enabled and config.model.lora.dropout > 0:
        yield Contradiction(
            "model.lora.dropout",
            "dropout makes the log-probs of training random, so their ratio to the sampler's means nothing",
            "set model.lora.dropout: 0",
        )
    if rollout.engine == "transformers" and rollout.tensor_parallel > 1:
        yield Contradiction(
            "rollout.tensor_parallel",
            "the transformers sampler does not split a model over GPUs",
            "set rollout.engine: vllm, or tensor_parallel: 1",
        )
    if rollout.colocate and (rollout.tensor_parallel > 1 or rollout.num_workers != train.num_workers):
        yield Contradiction(
            "rollout.colocate",
            f"colocated, each GPU holds one training rank and one sampler worker; asked are {train.num_workers} ranks "
            f"and {rollout.num_workers} workers of {rollout.tensor_parallel} GPU(s)",
            f"set rollout.num_workers: {train.num_workers} and tensor_parallel: 1, or colocate: false",
        )
    num_rollouts = train.prompts_per_step * rollout.group_size
    if num_rollouts < train.num_workers * train.updates_per_step:
        yield Contradiction(
            "train.prompts_per_step",
            f"{num_rollouts} rollouts a step do not reach every one of {train.num_workers} ranks x "
            f"{train.updates_per_step} updates",
            "raise train.prompts_per_step, or lower train.num_workers or train.updates_per_step",
        )


def _of_supervised(config: Config) -> Iterator[Contradiction]:
    train = config.train
    for key, value, neutral in (
        ("train.stop_at_reward", train.stop_at_reward, None),
        ("algorithm.kl_coef", config.algorithm.kl_coef, 0.0),
        ("algorithm.entropy_coef", config.algorithm.entropy_coef, 0.0),
        ("train.updates_per_step", train.updates_per_step, 1),
    ):
        if value != neutral:
            yield Contradiction(
                key,
                f"{config.algorithm.name} is supervised: there are no rollouts for it to act on",
                f"remove {key}, or choose an RL algorithm such as sgrpo",
            )
    if train.rows_per_step < train.num_workers:
        yield Contradiction(
            "train.rows_per_step",
            f"{train.rows_per_step} examples a step do not reach every one of {train.num_workers} ranks",
            "raise train.rows_per_step, or lower train.num_workers",
        )
