"""What the rank processes of test_learner_ranks.py run: `learner_jobs.py FOLDER RANK WORLD_SIZE PORT`.

Each algorithm takes one step on the same rows, cut over the ranks as the learner cuts them. AdamW with a learning rate
and an epsilon that are both huge moves a weight by minus its gradient, so the weights afterwards tell the gradient.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from oxrl_core.engine.environment import engine_environment

if __name__ == "__main__":  # before torch is imported
    os.environ.update(engine_environment(use_gpu=False))

import torch
from safetensors.torch import save_file

from oxrl_core.config.load import load_config
from oxrl_core.train.learner import balance, num_tokens_of, sizes_of
from oxrl_core.train.learner_worker import LearnerWorker
from oxrl_core.types import Credit, Example, LabeledExample, Measurement, PairExample, Prompt, Rollout

HUGE = 1e4
PAIRS = ("dpo", "simpo", "orpo", "aot", "beta_dpo", "dr_dpo", "rm")
LABELED = ("kto", "bco")
ROLLOUTS = ("sgrpo", "gspo", "ppo")
ALGORITHMS = (*PAIRS, *LABELED, *ROLLOUTS, "kd", "sft")


def overrides(name: str, micro_batch_tokens: int, packing: bool) -> list[str]:
    given = [
        *("run.backend=local", f"train.micro_batch_tokens={micro_batch_tokens}", f"data.packing={json.dumps(packing)}"),
        *("train.betas=[0.0,0.0]", f"train.lr={HUGE}", f"train.eps={HUGE}", "train.max_grad_norm=1e9"),
        *("train.warmup_steps=0", "train.lr_schedule=constant", "train.steps=9", "deepspeed.zero_stage=0"),
    ]
    if name == "ppo":
        given += ["algorithm.critic=shared", "algorithm.critic_lr=null", "train.passes_per_step=1"]
    if name in ROLLOUTS:
        given += ["algorithm.entropy_coef=0.1", "train.updates_per_step=1"]
    if name in (*PAIRS, *LABELED) and name not in ("simpo", "orpo", "rm"):
        given += ["algorithm.precompute_reference=false"]
    return given


def numbers(seed: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 19, (length,), generator=generator).tolist()


def example(prompt: int, completion: int) -> Example:
    """Row `completion` of the same task as `prompt`; lengths from 1 to 7 tokens."""
    prompt_ids, completion_ids = numbers(prompt, 2 + prompt % 3), numbers(100 + completion, 1 + completion % 7)
    return Example(prompt_ids + completion_ids, [False] * len(prompt_ids) + [True] * len(completion_ids))


def rollout(index: int) -> tuple[Rollout, Credit]:
    prompt_ids, ids = numbers(index // 2, 3), numbers(50 + index, 1 + index % 5)
    generator = torch.Generator().manual_seed(index)
    floats = (0.1 * torch.randn(4, len(ids), generator=generator)).tolist()
    measured = Measurement([-2.9 + value for value in floats[0]], values=floats[1])
    drawn = Rollout(Prompt(str(index), prompt_ids, ""), index % 2, ids, measured.old_logprobs, "stop", 0, 0)
    return drawn, Credit([1.0 if index % 2 else -0.7] * len(ids), floats[2], measured)


def items(name: str) -> list[object]:
    if name in PAIRS:
        return [PairExample(example(i, i), example(i, i + 20), 0.1 * i) for i in range(9)]
    if name in LABELED:
        return [LabeledExample(example(i, i), i % 3 > 0, example(i, i + 1)) for i in range(9)]
    return [example(i, i) for i in range(9)]


def step(name: str, folder: Path, rank: int, world_size: int, tokens: int, packing: bool) -> dict[str, float]:
    """The metrics of one step; what the weights moved by is left in the folder."""
    config = load_config(name, overrides(name, tokens, packing)).config
    worker = LearnerWorker(config, folder / "model", rank, world_size, 9, folder / "teacher" if name == "kd" else None)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from the reference, where all pairs are alike
        for parameter in worker.policy.policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    before = {key: value.detach().clone() for key, value in worker.policy.policy.named_parameters()}
    if name in ROLLOUTS:
        everything = [rollout(index) for index in range(9)]
        mine = balance(sizes_of([drawn for drawn, _ in everything]), world_size)[rank]
        metrics, _ = worker.train_on_rollouts([everything[i][0] for i in mine], [everything[i][1] for i in mine])
    else:
        rows = items(name)
        mine = balance([num_tokens_of(row) for row in rows], world_size)[rank]
        metrics = worker.train_on_examples([rows[i] for i in mine])
    moved = {key: before[key] - value.detach() for key, value in worker.policy.policy.named_parameters()}
    if rank == 0:
        save_file(moved, folder / f"{name}-{world_size}-{tokens}-{packing}.safetensors")
    return metrics


# Micro-batch tokens and packing of each step that a process takes.
CUTS = {1: [(4096, False), (24, False), (4096, True)], 2: [(24, False)]}


def main(folder: Path, rank: int, world_size: int, port: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(world_size))
    metrics = {}
    for name in ALGORITHMS:
        for tokens, packing in CUTS[world_size]:
            if packing and name not in ("sft", "kd"):
                continue
            metrics[f"{name}-{world_size}-{tokens}-{packing}"] = step(name, folder, rank, world_size, tokens, packing)
    if rank == 0:
        (folder / f"metrics-{world_size}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
