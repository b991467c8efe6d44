"""Values of the configuration that a person gets wrong."""

from __future__ import annotations

from benchmarks.faults.define import Fault

FAULTS = [
    Fault("dpo_lr_1e-9", "DPO with the learning rate of another project", {"lr_too_low"}, "dpo", ["train.lr=1e-9"]),
    Fault("simpo_lr_0.2", "SimPO at a learning rate of 0.2", {"lr_too_high"}, "simpo", ["train.lr=0.2"]),
    Fault("kto_lr_0.3", "KTO at a learning rate of 0.3", {"lr_too_high"}, "kto", ["train.lr=0.3"]),
    Fault(
        "ppo_lr_0.05",
        "PPO at a learning rate of 0.05",
        {"lr_too_high"},
        "ppo",
        ["train.lr=0.05"],
    ),
    Fault(
        "warmup_of_weeks",
        "the warm-up is a hundred times longer than the run",
        {"lr_too_low"},
        "sft",
        ["train.warmup_steps=4000", "train.lr=1e-4"],
    ),
    Fault(
        "adam_eps_1000",
        "AdamW's epsilon was written as 1e3 in place of 1e-3",
        {"loss_flat", "lr_too_low", "weights_unmoved"},
        "sft",
        ["train.eps=1000"],
    ),
    Fault(
        "weight_decay_100",
        "weight decay of 100 pulls every matrix to zero",
        {"reward_flat", "entropy_high"},
        overrides=["train.weight_decay=100", "train.steps=40"],
    ),
    Fault(
        "kl_coef_30",
        "the KL to the reference forbids every change",
        {"reward_flat", "shaped_reward"},
        "ppo",
        ["algorithm.kl_coef=30", "train.prompts_per_step=8"],
    ),
    Fault(
        "budget_of_tokens",
        "run.max_tokens is spent after a few steps",
        {"budget_spent"},
        overrides=["run.max_tokens=1500"],
    ),
    Fault(
        "top_k_2",
        "only the two likeliest tokens are drawn",
        {"truncated_sampling", "logprob_gap"},
        overrides=["rollout.top_k=2", "algorithm.mismatch=tis"],
    ),
    Fault(
        "temperature_20",
        "completions are drawn at temperature 20",
        {"temperature_high"},
        overrides=["rollout.temperature=20"],
    ),
    Fault(
        "synced_every_30",
        "the sampler gets new weights every 30 steps",
        {"stale_sampler"},
        overrides=[
            "rollout.sync_every=30",
            "algorithm.mismatch=tis",
            "algorithm.reference=synced",
            "train.steps=30",
        ],
    ),
    Fault(
        "overlong_buffer_is_all",
        "the overlong penalty begins with the second token",
        {"shaped_reward"},
        overrides=[
            "reward.overlong_buffer=5",
            "rollout.stop_at_eos=true",
            "rollout.max_completion_tokens=6",
            "train.steps=50",
        ],
    ),
    Fault(
        "cut_from_the_right",
        "data.max_length cuts the ends of all completions",
        {"truncation", "no_eos", "rows_lost"},
        "sft",
        ["data.overlong=right", "data.max_length=6"],
    ),
    Fault(
        "lora_scaled_away",
        "adapters on one kind of module, their update divided by a thousand",
        {"loss_flat"},
        "sft",
        ["model.lora.enabled=true", "model.lora.target_modules=[v_proj]", "model.lora.rank=1000", "model.lora.alpha=1"],
    ),
]
