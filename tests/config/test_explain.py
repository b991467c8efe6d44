"""Which layer set a value, and what the numbers amount to."""

from __future__ import annotations

from oxrl_core.config.explain import explain
from oxrl_core.config.load import load_config

SOURCE = {"run": {"name": "r"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}


def test_every_value_has_its_layer_and_a_description():
    explanation = explain(load_config(SOURCE, ["train.lr=1e-3", "algorithm.clip_high=0.28"]))
    rows = {row.key: row for row in explanation.rows}
    assert rows["train.lr"].value == 1e-3 and rows["train.lr"].layer == "override"
    assert rows["data.train.0.name"].value == "reverse3" and rows["data.train.0.name"].layer == "mapping"
    assert rows["algorithm.clip_high"].description == "parameter of sgrpo (default 0.2)"
    assert rows["rollout.group_size"].layer == "preset sgrpo" and "Preset: " in rows["rollout.group_size"].description
    assert all(row.description for row in explanation.rows)
    of_reward = explain(load_config(SOURCE, ["reward.name=reward_model", "reward.path=run:x"])).rows
    assert {row.key: row for row in of_reward}["reward.path"].description.startswith("parameter of the reward")


def test_the_arithmetic_of_an_rl_step_is_spelt_out():
    overrides = [
        "train.prompts_per_step=16",
        "rollout.group_size=4",
        "train.updates_per_step=2",
        "train.num_workers=2",
        "train.micro_batch_tokens=100",
        "train.steps=50",
        "data.max_prompt_tokens=8",
        "rollout.max_completion_tokens=12",
        "algorithm.kl_coef=0.05",
    ]
    text = "\n".join(explain(load_config(SOURCE, overrides), num_rows=100).arithmetic)
    for line in (
        "a step: 16 prompts x 4 completions = 64 rollouts in 16 groups",
        "at most 64 rollouts x (8 prompt + 12 completion) = 1,280, of which at most 768 are trained on",
        "updates: 2 a step, each on 32 rollouts",
        # 32 rollouts of an update over 2 ranks; 100 tokens hold 5 rows of 20: ceil(16 / 5) = 4
        "ranks: 2, each takes 16 rollouts of an update; a forward pass holds up to 100 tokens, so 5 rollouts",
        "at most 4 micro-batches",
        "an epoch: 100 rows / 16 prompts a step = 6.25 steps",
        "the run: 50 steps = 100 updates = 800 prompts, 8 passes over the data",
        "rollouts in all: 50 steps x 64 = 3,200",
        "KL: 0.05 x k3 to the initial policy",
    ):
        assert line in text


def test_the_arithmetic_of_supervised_training_is_spelt_out():
    overrides = ["algorithm.name=sft", "train.rows_per_step=8", "train.epochs=2", "train.warmup_steps=3"]
    text = "\n".join(explain(load_config(SOURCE, overrides), num_rows=100).arithmetic)
    assert "a step: 8 examples in one update" in text
    assert "the run: 25 steps = 25 updates = 200 examples, 2 passes over the data" in text
    assert "learning rate: 2e-05 after 3 updates of warm-up, falling (linear) to 0" in text
    assert "a step: 8 examples in one update\n" in text
    assert "the run: 2 epoch(s) over the data" in "\n".join(explain(load_config(SOURCE, overrides)).arithmetic)


def lines_of(name: str, *overrides: str) -> str:
    return "\n".join(explain(load_config(SOURCE, [f"algorithm.name={name}", *overrides]), num_rows=100).arithmetic)


def test_pairs_and_labeled_rows_are_two_rows_each():
    text = lines_of("dpo", "train.rows_per_step=8", "data.max_length=10")
    assert "a step: 8 pairs in one update: 16 rows, chosen and rejected" in text
    assert "at most 16 rows x 10 = 160; the loss is a mean over the pairs of the whole step" in text
    text = lines_of("kto", "train.rows_per_step=8")
    assert "8 labeled rows in one update: 16 rows, each with the completion of another row" in text


def test_passes_multiply_the_updates():
    text = lines_of("ppo", "train.prompts_per_step=16", "train.steps=10", "train.updates_per_step=2")
    assert "updates: 8 a step (4 passes of 2), each on 8 rollouts; later ones compare with the first" in text
    assert "the run: 10 steps = 80 updates" in text


def test_what_of_the_draw_is_learned_from_is_said():
    sizes = ("train.prompts_per_step=10", "rollout.group_size=6")
    text = lines_of("rft", *sizes)
    assert "kept: completions with a reward of at least 1, at most 4 of a prompt's 6" in text
    assert "updates: 1 a step, each on 40 rollouts" in text
    text = lines_of("online_dpo", *sizes)
    assert "pairs: at most 10 a step" in text and "each on 20 rows of pairs" in text
    text = lines_of("spin", *sizes)
    assert "pairs: 60 a step" in text and "new weights every 100 steps" in text
    text = lines_of("gkd", "algorithm.teacher=a/b", "train.prompts_per_step=10", "rollout.drawn_share=0.3")
    assert "a step: 3 prompts x 1 completions = 3 rollouts" in text
    assert "7 rows keep the completion of the data" in text and "each on 10 rows" in text
    assert "teacher: a/b, frozen" in text
    assert "up to 10 times a step" in lines_of("dapo")


def test_the_models_beside_the_policy_are_named_with_what_they_cost():
    assert "KL: off, so no reference model is loaded" in lines_of("sgrpo")
    assert "reference:" not in lines_of("sgrpo") and "reference:" not in lines_of("sft")
    assert "measured for all rows before step 0, and it is freed" in lines_of("dpo")
    assert "a second model in memory" in lines_of("dpo", "algorithm.precompute_reference=false")
    text = lines_of("dpo", "algorithm.precompute_reference=false", "model.lora.enabled=true")
    assert "without its adapters, so no second model is held" in text
    assert "reference: none, simpo compares with no other policy" in lines_of("simpo")
    assert "reference: the policy of the last sync" in lines_of("spin")
    text = lines_of("ppo")
    assert "KL: 0.05 x k1 to the initial policy, taken off the reward of each token" in text
    assert "critic: a model of its own with its own optimizer (learning rate 1e-05)" in text
    assert "critic: a head on the policy's last state" in lines_of("ppo", "algorithm.critic=shared")
    assert "reward model: run:x, in a worker of its own" in lines_of("rlhf", "reward.path=run:x")
