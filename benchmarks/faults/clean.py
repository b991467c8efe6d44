"""Healthy runs of several kinds: what a diagnosis finds there at level error is a false alarm."""

from __future__ import annotations

from benchmarks.faults.define import Fault

CLEAN = [
    Fault("clean_sgrpo", "", set(), "sgrpo", ["train.steps=40"]),
    Fault("clean_sgrpo_seed_1", "", set(), "sgrpo", ["run.seed=1"]),
    Fault("clean_sgrpo_seed_2", "", set(), "sgrpo", ["run.seed=2", "train.steps=60"]),
    Fault("clean_copy3", "", set(), "copy3", []),
    Fault("clean_dapo", "", set(), "dapo", []),
    Fault("clean_gspo", "", set(), "gspo", []),
    Fault("clean_cispo", "", set(), "cispo", []),
    Fault("clean_rloo", "", set(), "rloo", []),
    Fault("clean_ppo", "", set(), "ppo", ["train.prompts_per_step=8", "train.steps=20"]),
    Fault("clean_dr_grpo", "", set(), "dr_grpo", []),
    Fault("clean_sft", "", set(), "sft", []),
    Fault("clean_sft_long", "", set(), "sft", ["train.steps=150"]),
    Fault("clean_sft_cosine", "", set(), "sft", ["train.lr_schedule=cosine", "train.warmup_steps=5"]),
    Fault("clean_cpt", "", set(), "cpt", []),
    Fault("clean_dpo", "", set(), "dpo", []),
    Fault("clean_dpo_seed_1", "", set(), "dpo", ["run.seed=1"]),
    Fault("clean_ipo", "", set(), "ipo", []),
    Fault("clean_simpo", "", set(), "simpo", []),
    Fault("clean_kto", "", set(), "kto", []),
    Fault("clean_orpo", "", set(), "orpo", []),
    Fault("clean_rm", "", set(), "rm", []),
    Fault("clean_lora", "", set(), "sft", ["model.lora.enabled=true", "train.lr=1e-2"]),
]
