"""Values that are each allowed and cannot be meant together. Every rule says why, and what to change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from oxrl_core.algorithms.base import JUDGED_LESSONS, Algorithm, get_algorithm
from oxrl_core.config.idle import PAIRWISE, idle_keys
from oxrl_core.config.schema import Config

SEQUENCE_RATIO = ("gspo", "luspo")  # losses whose ratio is a mean over the completion, without a key to say so
WIDE_CLIP = 0.1  # a mean over tokens never moves that far in one step; the papers' bounds are 2e-3 and below


@dataclass(frozen=True)
class Contradiction:
    """A key whose value cannot be meant beside the others."""

    key: str
    reason: str
    fix: str


def find_contradictions(config: Config) -> list[Contradiction]:
    """Every pair of values that excludes each other; empty for a config that can be meant."""
    algorithm = get_algorithm(config.algorithm.name)
    found = [*_of_any_run(config), *_of_models(config, algorithm)]
    if algorithm.kind == "rl":
        found += [*_of_drawing(config, algorithm), *_of_rewards(config, algorithm)]
    else:
        found += _of_rows(config, algorithm)
    if algorithm.lesson == "advantages":
        found += [*_of_advantages(config), *_of_ratios(config, algorithm), *_of_kl(config)]
    return found + [Contradiction(*idle) for idle in idle_keys(config, algorithm)]


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
    if train.keep_best and not config.data.eval:
        yield Contradiction(
            "train.keep_best",
            "nothing is held out to say which checkpoint is best",
            "name a dataset in data.eval, or set train.keep_best: 0",
        )
    elif train.keep_best and (not train.eval_every or train.save_every % train.eval_every):
        yield Contradiction(
            "train.keep_best",
            f"checkpoints (every {train.save_every} steps) fall on steps that are not evaluated (every "
            f"{train.eval_every})",
            "make train.save_every a multiple of train.eval_every",
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


def _of_models(config: Config, algorithm: Algorithm) -> Iterator[Contradiction]:
    if algorithm.signals == "Distributions" and not config.algorithm.teacher:
        yield Contradiction(
            "algorithm.teacher",
            f"{algorithm.name} learns from the distributions of a teacher, and none is named",
            "set algorithm.teacher to a model folder, a hub id, or run:<id>",
        )


def _of_drawing(config: Config, algorithm: Algorithm) -> Iterator[Contradiction]:
    """Of whatever draws completions."""
    rollout, train = config.rollout, config.train
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
    if rollout.group_size == 1 and algorithm.lesson == "best_and_worst":
        yield Contradiction(
            "rollout.group_size",
            f"{algorithm.name} learns from the best and the worst completion of a prompt, and one is both",
            "set rollout.group_size to 2 or more (4 is usual)",
        )
    if rollout.sync_every > 1 and config.algorithm.reference != "synced":
        yield Contradiction(
            "rollout.sync_every",
            "between syncs the sampler holds older weights, and a checkpoint has them only as a synced reference: "
            "a resumed run could not go on",
            "set algorithm.reference: synced, or rollout.sync_every: 1",
        )
    if rollout.pipeline and rollout.colocate:
        yield Contradiction(
            "rollout.pipeline",
            "colocated, learner and sampler take turns on the same GPUs: the next step cannot be drawn meanwhile",
            "set rollout.colocate: false, or pipeline: 0",
        )
    if rollout.pipeline and rollout.sync_every > 1:
        yield Contradiction(
            "rollout.pipeline",
            f"with sync_every {rollout.sync_every} the sampler lags behind on purpose: drawing ahead adds to that what "
            "nobody asked for",
            "set rollout.sync_every: 1, or pipeline: 0",
        )


def _of_rewards(config: Config, algorithm: Algorithm) -> Iterator[Contradiction]:
    reward, rollout = config.reward, config.rollout
    if algorithm.lesson not in JUDGED_LESSONS:
        return
    if reward.name == "none":
        yield Contradiction(
            "reward.name",
            f"{algorithm.name} learns from how good its completions are, and nothing judges them",
            "set reward.name to a built-in reward (oxrl rewards) or to your own package.module:function",
        )
    if reward.overlong_buffer >= rollout.max_completion_tokens:
        yield Contradiction(
            "reward.overlong_buffer",
            f"a completion has at most {rollout.max_completion_tokens} tokens, so every one of them would cost",
            f"set it to 0, or to about {max(1, rollout.max_completion_tokens // 5)} (DAPO: a fifth)",
        )
    for key, is_on in (
        ("reward.overlong_buffer", reward.overlong_buffer > 0),
        ("reward.missing_eos_penalty", reward.missing_eos_penalty > 0),
    ):
        if is_on and not rollout.stop_at_eos:
            yield Contradiction(
                key,
                "without rollout.stop_at_eos every completion has the full length, so all pay the same and learn "
                "nothing from it",
                f"set rollout.stop_at_eos: true, or {key}: 0",
            )
    if rollout.drop_truncated and not rollout.stop_at_eos:
        yield Contradiction(
            "rollout.drop_truncated",
            "without rollout.stop_at_eos every completion is cut off, so none would be trained on",
            "set rollout.stop_at_eos: true, or drop_truncated: false",
        )


def _of_advantages(config: Config) -> Iterator[Contradiction]:
    rollout, switches = config.rollout, config.algorithm
    if rollout.group_size == 1 and switches.advantage not in ("returns", "gae"):
        yield Contradiction(
            "rollout.group_size",
            f"algorithm.advantage {switches.advantage} compares the completions of one prompt with each other, "
            "and a group of 1 has nothing to compare with",
            "set rollout.group_size to 2 or more (8 is usual)",
        )
    if rollout.group_size == 1 and rollout.dynamic_sampling:
        yield Contradiction(
            "rollout.dynamic_sampling",
            "it draws until the rewards of a group differ, and those of a group of 1 never do",
            "set rollout.group_size to 2 or more, or dynamic_sampling: false",
        )
    if config.model.lora.enabled and config.model.lora.dropout > 0:
        yield Contradiction(
            "model.lora.dropout",
            "dropout makes the log-probs of training random, so their ratio to the sampler's means nothing",
            "set model.lora.dropout: 0",
        )


def _of_ratios(config: Config, algorithm: Algorithm) -> Iterator[Contradiction]:
    """Of everything that compares the policy with the one that drew."""
    rollout, switches = config.rollout, config.algorithm
    params = {**algorithm.params, **switches.params}
    has_sequence_ratio = params.get("ratio") == "sequence" or algorithm.name in SEQUENCE_RATIO
    for name in ("clip_low", "clip_high"):
        bound = params.get(name)
        if has_sequence_ratio and isinstance(bound, int | float) and bound >= WIDE_CLIP:
            yield Contradiction(
                f"algorithm.{name}",
                "the ratio is a mean over the tokens of a completion, which hardly moves: "
                f"with a bound of {bound:g} nothing is ever clipped",
                f"set algorithm.{name} to {3e-4 if name == 'clip_low' else 4e-4:g} (GSPO), or take a ratio per token",
            )
    if switches.mismatch == "off":
        for key, is_cut in (("rollout.top_p", rollout.top_p < 1), ("rollout.top_k", rollout.top_k > 0)):
            if is_cut:
                yield Contradiction(
                    key,
                    "sampling from a part of the distribution draws from another policy than the one that is trained, "
                    "and nothing corrects for it",
                    f"set algorithm.mismatch: tis, or {key}: {'1.0' if key == 'rollout.top_p' else 0}",
                )
        if rollout.sync_every > 1:
            yield Contradiction(
                "rollout.sync_every",
                f"rollouts of up to {rollout.sync_every - 1} steps ago come from another policy than the one that is "
                "trained; its ratio starts at the present policy and knows nothing of that",
                "set algorithm.mismatch: tis, or rollout.sync_every: 1",
            )
        if rollout.pipeline:
            yield Contradiction(
                "rollout.pipeline",
                "rollouts drawn ahead come from the policy of one step ago; the ratio starts at the present policy and "
                "knows nothing of that",
                "set algorithm.mismatch: tis, or rollout.pipeline: 0",
            )
    if switches.mismatch == "icepop" and not switches.mismatch_low < 1 < switches.mismatch_high:
        yield Contradiction(
            "algorithm.mismatch_low",
            f"the band {switches.mismatch_low:g} to {switches.mismatch_high:g} leaves out 1, where trainer and sampler "
            "agree: nearly every token would be dropped",
            "set mismatch_low below 1 and mismatch_high above 1 (0.5 and 2; IcePop has 0.5 and 5)",
        )
    if switches.mismatch in ("tis", "mis") and switches.mismatch_high <= 1:
        yield Contradiction(
            "algorithm.mismatch_high",
            f"{switches.mismatch_high:g} is not above 1, where trainer and sampler agree: it would act on every token",
            "set algorithm.mismatch_high above 1 (2 is usual)",
        )


def _of_kl(config: Config) -> Iterator[Contradiction]:
    switches, train = config.algorithm, config.train
    if switches.kl_coef == 0:
        return
    if switches.kl_place == "reward" and switches.kl_estimator == "unbiased":
        yield Contradiction(
            "algorithm.kl_estimator",
            "in the reward it is a number without gradient, and `unbiased` differs from k3 by its gradient alone",
            "set algorithm.kl_estimator: k1 (or k3), or kl_place: loss",
        )
    if switches.kl_place == "loss" and switches.kl_estimator == "k1":
        yield Contradiction(
            "algorithm.kl_estimator",
            "the gradient of k1 is that of the log-prob, whose expectation is 0: it would add noise and hold nothing",
            "set algorithm.kl_estimator to k3, k2 or unbiased, or kl_place: reward, where k1 is right",
        )
    syncs_always = config.rollout.sync_every == 1 and train.updates_per_step * train.passes_per_step == 1
    if switches.reference == "synced" and syncs_always:
        yield Contradiction(
            "algorithm.reference",
            "synced at every step and used for one update, the reference is the policy itself: the KL is always 0",
            "set algorithm.reference: initial, or kl_coef: 0",
        )


def _of_rows(config: Config, algorithm: Algorithm) -> Iterator[Contradiction]:
    """Of whatever learns from the data's own completions."""
    train = config.train
    if train.rows_per_step < train.num_workers:
        yield Contradiction(
            "train.rows_per_step",
            f"{train.rows_per_step} examples a step do not reach every one of {train.num_workers} ranks",
            "raise train.rows_per_step, or lower train.num_workers",
        )
    if algorithm.lesson == "labeled" and train.rows_per_step < 2:
        yield Contradiction(
            "train.rows_per_step",
            f"{algorithm.name} compares each prompt with the completion of another row of the step",
            "set train.rows_per_step to 2 or more (64 is usual)",
        )
    if algorithm.lesson in PAIRWISE and config.data.packing:
        yield Contradiction(
            "data.packing",
            f"{algorithm.name} has one value for a whole completion, so a row holds only one",
            "set data.packing: false",
        )
