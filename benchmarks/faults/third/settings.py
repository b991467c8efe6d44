"""Values of the configuration that a person gets wrong."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import HERE, Fault, own

PLANTS = HERE / "third_plants.py"


def schedule_counts_micro_batches(_run: Path) -> None:
    """The schedule is advanced once for each micro-batch, of which an update has eight."""
    from oxrl_core.engine import policy, schedule

    right = schedule.learning_rate
    policy.learning_rate = lambda step, train, total_steps: right(8 * step, train, total_steps)


FAULTS = [
    Fault("cispo_lr_0.05", "CISPO at a learning rate of 0.05", {"lr_too_high"}, "cispo", ["train.lr=0.05"]),
    Fault("rm_lr_0.5", "a reward model at a learning rate of 0.5", {"lr_too_high"}, "rm", ["train.lr=0.5"]),
    Fault(
        "cpt_without_brakes",
        "the learning rate is 0.1, and gradients are hardly clipped",
        {"lr_too_high", "diverged"},
        "cpt",
        ["train.lr=0.1", "train.max_grad_norm=1000"],
    ),
    Fault(
        "rloo_lr_of_7b",
        "a small model with the learning rate of a large one",
        {"lr_too_low", "reward_flat"},
        "rloo",
        ["train.lr=1e-6"],
    ),
    Fault(
        "ppo_critic_lr_1",
        "the critic's learning rate is 1",
        {"lr_too_high", "diverged"},
        "ppo",
        ["algorithm.critic_lr=1.0", "train.prompts_per_step=8", "train.steps=16"],
    ),
    Fault(
        "group_of_two",
        "groups of two and a verdict of all or nothing",
        {"zero_variance", "too_hard"},
        overrides=[
            f"reward.name={own('first_digit', PLANTS)}",
            "rollout.group_size=2",
            "train.prompts_per_step=32",
            "rollout.max_completion_tokens=1",
        ],
    ),
    Fault(
        "grad_norm_has_the_epsilon",
        "the value of train.eps stands in train.max_grad_norm",
        {"loss_flat", "lr_too_low", "weights_unmoved"},
        "dpo",
        ["train.max_grad_norm=1e-8"],
    ),
    Fault(
        "dpo_beta_1e-5",
        "the learning rate was written into beta",
        {"loss_flat"},
        "dpo",
        ["algorithm.beta=1e-5"],
    ),
    Fault(
        "kto_beta_100",
        "beta is 100: the loss is a step function",
        {"loss_flat", "gradient_dead"},
        "kto",
        ["algorithm.beta=100"],
    ),
    Fault(
        "schedule_counts_micro_batches",
        "the schedule advances eight times as fast as the training",
        {"lr_floor"},
        "orpo",
        ["train.lr_schedule=linear"],
        plant=schedule_counts_micro_batches,
    ),
    Fault(
        "only_finished_count",
        "cut completions are left out, and hardly one is finished",
        {"truncation", "nothing_to_learn"},
        overrides=["rollout.drop_truncated=true", "rollout.stop_at_eos=true", "rollout.max_completion_tokens=3"],
    ),
    Fault(
        "scores_below_the_clip",
        "reward.clip is 5, and the scores lie between -20 and -10",
        {"shaped_reward", "gradient_dead", "reward_flat"},
        overrides=[f"reward.name={own('log_likelihood', PLANTS)}", "reward.clip=5", "algorithm.entropy_coef=0"],
    ),
    Fault(
        "top_p_0.3",
        "only the likeliest third of the probability is drawn from",
        {"truncated_sampling", "logprob_gap"},
        "rloo",
        ["rollout.top_p=0.3", "algorithm.mismatch=tis"],
    ),
    Fault(
        "synced_every_10",
        "the sampler gets new weights every ten steps",
        {"stale_sampler"},
        "cispo",
        ["rollout.sync_every=10", "algorithm.mismatch=tis", "algorithm.reference=synced", "train.steps=30"],
    ),
    Fault(
        "rl_keys_in_sft",
        "temperature, group size and reward are set for supervised training",
        {"config_idle"},
        "sft",
        ["rollout.temperature=0.3", "rollout.group_size=16", "reward.name=exact"],
    ),
    Fault(
        "rm_twenty_pairs",
        "a reward model learns from twenty pairs again and again",
        {"overfitting"},
        "rm",
        ["data.train.0.limit=20", "train.rows_per_step=20", "train.steps=80"],
    ),
    Fault(
        "rl_four_prompts",
        "data.train has a limit of four prompts that somebody forgot",
        {"overfitting", "eval_falls"},
        overrides=["data.train.0.limit=4", "train.prompts_per_step=4", "rollout.group_size=16", "train.steps=60"],
    ),
]
