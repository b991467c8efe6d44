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
    assert "the run: 2 epoch(s) over the data" in "\n".join(explain(load_config(SOURCE, overrides)).arithmetic)
