"""Rewards that are wrong, late, absent, or paid for something else."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import HERE, Fault, own

PLANTS = HERE / "second_plants.py"


def same_seeds(_run: Path) -> None:
    """Every completion of a group is drawn from one seed."""
    from oxrl_core.rollout import sampler

    right = sampler.seeded_samples

    def equal(*arguments: object) -> list[tuple[object, int, int]]:
        first: dict[str, int] = {}
        samples = right(*arguments)  # type: ignore[arg-type]
        return [(prompt, index, first.setdefault(prompt.id, seed)) for prompt, index, seed in samples]

    sampler.seeded_samples = equal  # type: ignore[assignment]


def sampler_is_colder(_run: Path) -> None:
    """The sampler draws at 0.7 times the temperature that the trainer believes."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker._decode

    def colder(self: object, prompts: object, seeds: object, temperature: float, *rest: object) -> object:
        return right(self, prompts, seeds, 0.7 * temperature, *rest)  # type: ignore[arg-type]

    TransformersWorker._decode = colder  # type: ignore[method-assign,assignment]


FAULTS = [
    Fault(
        "reward_nan_for_some",
        "the reward is NaN where a list is empty",
        {"verifier_errors", "not_finite"},
        overrides=[f"reward.name={own('nan_without_three', PLANTS)}"],
    ),
    Fault(
        "judge_is_down",
        "nobody listens at the judge's address",
        {"verifier_errors", "verifier_timeouts", "wrong_request"},
        overrides=[
            "reward.name=judge",
            "reward.url=http://127.0.0.1:9/v1",
            "reward.model=judge",
            "reward.opponents=2",
            "train.steps=4",
            "train.prompts_per_step=2",
            "rollout.group_size=4",
        ],
    ),
    Fault(
        "brevity_hacked",
        "the judge prefers short answers, and gets empty ones",
        {"constant_answer"},
        overrides=[
            f"reward.name={own('brevity', PLANTS)}",
            "rollout.stop_at_eos=true",
            "rollout.max_completion_tokens=8",
            "train.steps=40",
        ],
    ),
    Fault(
        "style_hacked",
        "a style bonus outweighs the truth",
        {"part_hacking", "constant_answer"},
        overrides=[f"reward.name={own('style_beside_truth', PLANTS)}", "train.steps=50"],
    ),
    Fault(
        "lenient_in_training",
        "the training verifier is lenient, the held-out one is not",
        {"eval_falls", "constant_answer"},
        overrides=[f"reward.name={own('lenient_in_training', PLANTS)}", "train.steps=50", "train.eval_every=10"],
    ),
    Fault(
        "format_is_enough",
        "the reward checks the format and forgets the answer",
        {"reward_full", "too_easy", "zero_variance"},
        overrides=[f"reward.name={own('any_digit', PLANTS)}", "rollout.max_completion_tokens=16"],
    ),
    Fault(
        "reward_in_millionths",
        "the reward is so small that the entropy bonus is all that counts",
        {"entropy_high", "reward_flat"},
        overrides=[f"reward.name={own('in_millionths', PLANTS)}", "train.steps=40"],
    ),
    Fault(
        "seeds_all_equal",
        "every completion of a group is the same",
        {"zero_variance", "nothing_to_learn"},
        plant=same_seeds,
    ),
    Fault(
        "sampler_is_colder",
        "sampler and trainer disagree about the temperature",
        {"logprob_gap"},
        plant=sampler_is_colder,
    ),
    Fault(
        "verifier_slows_down",
        "the verifier becomes far slower in the second half",
        {"slow_step"},
        overrides=[f"reward.name={own('ever_slower', PLANTS)}"],
    ),
    Fault(
        "verifier_leaks",
        "the verifier keeps half a megabyte of every completion",
        {"memory_leak"},
        overrides=[f"reward.name={own('leaks', PLANTS)}", "train.steps=30"],
    ),
]
