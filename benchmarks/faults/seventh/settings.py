"""Values of the configuration that do not belong to this algorithm, model or data."""

from __future__ import annotations

from benchmarks.faults.define import Fault

FAULTS = [
    Fault(  # DAPO#22: "Generated too many. Please check your data."
        "dapo_finds_no_group",
        "dynamic sampling looks for groups with a right answer, and the model has none to any prompt",
        {"too_hard", "reward_zero", "nothing_to_learn"},
        "dapo",
        ["reward.name=exact", "rollout.dynamic_sampling=true", "train.steps=12", "train.eval_every=6"],
    ),
    Fault(  # trl#2872: GRPO with LoRA at 5e-7
        "adapters_at_1e-7",
        "adapters are trained at a learning rate below that of all weights",
        {"lr_too_low"},
        "sgrpo",
        ["model.lora.enabled=true", "train.lr=1e-7"],
    ),
    Fault(  # pain 14
        "reinforce_pp_lr_0.1",
        "REINFORCE++ at a learning rate of 0.1",
        {"lr_too_high"},
        "reinforce_pp",
        ["train.lr=0.1"],
    ),
    Fault(  # pain 14, OpenRLHF#459
        "prompt_limit_of_another_task",
        "data.max_prompt_tokens is smaller than every prompt",
        {"rows_lost", "wrong_request"},
        "dr_grpo",
        ["data.max_prompt_tokens=3"],
    ),
]
