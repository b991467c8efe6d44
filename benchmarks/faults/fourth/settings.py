"""Values of the configuration that a person gets wrong."""

from __future__ import annotations

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.fourth_plants import GENTLE, half_taught

PLANTS = HERE / "fourth_plants.py"

FAULTS = [
    Fault(
        "lora_keys_without_lora",
        "rank and alpha of adapters are set, and adapters are not switched on",
        {"config_idle"},
        "sft",
        ["model.lora.rank=64", "model.lora.alpha=128", "model.lora.target_modules=[q_proj, v_proj]"],
    ),
    Fault(
        "flash_attention_missing",
        "flash_attention_2 is asked for, and not installed",
        {"fa_missing", "wrong_request"},
        "dpo",
        ["model.attention=flash_attention_2"],
    ),
    Fault(
        "chat_template_of_a_base_model",
        "the chat template is asked of a base model, which has none",
        {"chat_template", "wrong_request"},
        "sft",
        ["data.apply_chat_template=true"],
    ),
    Fault(
        "missing_eos_costs_too_much",
        "a completion that does not end by itself costs twice what a right answer brings",
        {"shaped_reward", "reward_falls", "constant_answer"},
        "dr_grpo",
        [
            "reward.missing_eos_penalty=2",
            "rollout.stop_at_eos=true",
            "rollout.max_completion_tokens=4",
            "train.lr=3e-3",
            "train.steps=40",
        ],
    ),
    Fault(
        "dapo_temperature_0.03",
        "completions are drawn at temperature 0.03",
        {"temperature_low", "zero_variance", "entropy_low"},
        "dapo",
        ["rollout.temperature=0.03"],
    ),
    Fault(
        "rloo_temperature_4",
        "completions are drawn at temperature 4",
        {"temperature_high"},
        "rloo",
        ["rollout.temperature=4", *GENTLE],
        plant=half_taught,
    ),
    Fault(
        "rft_threshold_in_percent",
        "completions from 80 on are kept, and the reward lies between 0 and 1",
        {"nothing_to_learn"},
        "rft",
        [
            "model.path=miniature:chars",
            f"reward.name={own('in_percent', PLANTS)}",
            "selection.reward_threshold=80",
        ],
    ),
]
