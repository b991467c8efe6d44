"""Models that see or hear: our log-probs are the model's own, and the towers stay as they are unless asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oxrl_core.config.schema import Config, DataConfig, DatasetConfig, LoraConfig, ModelConfig
from oxrl_core.data.collate import collate_examples
from oxrl_core.data.media import FAMILIES, MediaReader, open_media, render_with_media
from oxrl_core.data.render import render_example, render_prompt
from oxrl_core.datasets.base import load_rows
from oxrl_core.engine.policy import check_sharding_of_towers
from oxrl_core.errors import ConfigError, DataError, ModelError
from oxrl_core.models.load import load_policy, load_scorer, load_tokenizer
from oxrl_core.models.logprobs import PolicyModel
from oxrl_core.models.lora import add_lora, bound_modules
from oxrl_core.models.miniature import make_miniature
from oxrl_core.models.multimodal import (
    MODEL_INPUTS,
    freeze_towers,
    is_multimodal,
    names_in_files,
    placeholder_ids,
    tower_names,
)
from oxrl_core.rollout.hf_worker import TransformersWorker
from oxrl_core.rollout.worker import checkpoint_names
from oxrl_core.types import Example, TokenBatch

FAMILY_MODELS = [
    "qwen2-vl-2b-instruct",
    "qwen2.5-vl-3b-instruct",
    "qwen3-vl-2b-instruct",
    "qwen3.5-27b",
    "gemma-3-4b-it",
    "smolvlm-instruct",
    "qwen2-audio-7b-instruct",
]


@dataclass
class Subject:
    slug: str
    folder: Path
    tokenizer: Any
    reader: MediaReader
    rows: list[dict[str, Any]]
    data: DataConfig

    def policy(self, dtype: torch.dtype = torch.float32) -> PolicyModel:
        policy = PolicyModel(load_policy(self.folder, ModelConfig(path="x"), dtype))
        policy.check_head()
        return policy

    def examples(self, count: int = 3) -> list[Example]:
        return [
            render_with_media(row, render=render_example, tokenizer=self.tokenizer, data=self.data, reader=self.reader)
            for row in self.rows[:count]
        ]

    def batch(self, examples: list[Example]) -> TokenBatch:
        return collate_examples(examples, 0, False, 4096, self.reader)


def logprobs_of(policy: PolicyModel, batch: TokenBatch) -> Tensor:
    rows = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "position_ids", "segment_ids")}
    return policy(**rows, wanted=batch.completion_mask, media_inputs=batch.media_inputs)[0]


@pytest.fixture(scope="module", params=FAMILY_MODELS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = make_miniature(request.param, tmp_path_factory.mktemp("models") / "model", seed=0)
    tokenizer = load_tokenizer(folder)
    reader = open_media(folder, tokenizer)
    assert reader is not None
    name = "tones" if reader.family.kind == "audio" else "shapes"
    rows = load_rows(DatasetConfig(name=name), 0)
    return Subject(request.param, folder, tokenizer, reader, list(rows), DataConfig(train=[DatasetConfig(name=name)]))


def own_forward(policy: PolicyModel, example: Example, reader: MediaReader) -> Tensor:
    """Log-probs of one row alone as the model computes them from what its own processor would hand it."""
    ids = torch.tensor([example.token_ids])
    inputs: dict[str, Any] = dict(reader.features(example.media[0]).inputs)
    marks = (ids == reader.token_id).int()
    kind = policy.base.config.model_type
    if kind.startswith("qwen") and kind != "qwen2_audio":
        inputs["mm_token_type_ids"] = marks
    elif kind == "gemma3":
        inputs["token_type_ids"] = marks
    elif kind == "idefics3":
        inputs = {name: value[None] for name, value in inputs.items()}
    logits = policy.base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs).logits[0, :-1]
    for token in placeholder_ids(policy.base.config):
        logits[:, token] = -torch.inf
    return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]


def test_what_is_read_and_what_is_modelled_are_the_same_families() -> None:
    assert set(FAMILIES) == set(MODEL_INPUTS)


def test_logprobs_of_a_padded_batch_are_those_of_the_models_own_forward(subject: Subject) -> None:
    policy = subject.policy().eval()
    assert policy.uses_own_head
    examples = subject.examples()
    batch = subject.batch(examples)
    with torch.no_grad():
        found = logprobs_of(policy, batch)
        for row, example in enumerate(examples):
            expected = own_forward(policy, example, subject.reader)
            mask = torch.tensor(example.completion_mask[1:])
            mine = found[row, 1 : len(example.token_ids)]
            assert float((mine - expected)[mask].abs().max()) < 1e-5
        policy.uses_own_head = False
        assert float((logprobs_of(policy, batch) - found).abs().max()) < 1e-5


def test_another_picture_or_sound_changes_what_the_model_says(subject: Subject) -> None:
    policy = subject.policy().eval()
    answer = subject.rows[0]["answer"]
    other = next(row for row in subject.rows if row["prompt"] == subject.rows[0]["prompt"] and row["answer"] != answer)
    first = subject.examples(1)[0]
    swapped = Example(first.token_ids, first.completion_mask, other["media"])
    with torch.no_grad():
        seen = logprobs_of(policy, subject.batch([first]))
        changed = logprobs_of(policy, subject.batch([swapped]))
    assert float((seen - changed).abs().max()) > 1e-5


def test_the_gradient_reaches_the_language_model_and_no_frozen_tower(subject: Subject) -> None:
    policy = subject.policy()
    freeze_towers(policy.base)
    logprobs_of(policy, subject.batch(subject.examples())).sum().backward()
    towers = tuple(f"{name}." for name in tower_names(policy.base))
    reached = {name for name, parameter in policy.base.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith(towers) for name in reached)
    language = {name for name, _ in policy.base.named_parameters() if not name.startswith(towers)}
    assert reached == language and len(towers) > 0


def test_trained_towers_get_a_gradient_and_rows_of_text_alone_leave_a_zero_there(subject: Subject) -> None:
    policy = subject.policy()
    logprobs_of(policy, subject.batch(subject.examples())).sum().backward()
    towers = [policy.base.get_submodule(name) for name in tower_names(policy.base)]
    moved = [p for tower in towers for p in tower.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(moved) > 10
    policy.zero_grad(set_to_none=True)
    ids = [5, 6, 7, 8]
    text = subject.batch([Example(ids, [False, True, True, True])])
    assert text.media_inputs is None
    logprobs_of(policy, text).sum().backward()
    gradients = [p.grad for tower in towers for p in tower.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_adapters_are_bound_in_the_language_model_alone_unless_towers_are_asked_for(subject: Subject) -> None:
    for adapts_towers in (False, True):
        model = load_policy(subject.folder, ModelConfig(path="x"), torch.float32)
        towers = tuple(tower_names(model))
        adapted = add_lora(model, LoraConfig(enabled=True, rank=2), 0, adapts_towers=adapts_towers)
        bound = [name.removeprefix("base_model.model.") for name in bound_modules(adapted)]
        assert any(not name.startswith(towers) for name in bound)
        assert any(name.startswith(towers) for name in bound) is adapts_towers


def test_the_sampler_says_of_its_tokens_what_the_trainer_says(subject: Subject) -> None:
    config = Config.model_validate(
        {
            "run": {"name": "t"},
            "model": {"path": str(subject.folder)},
            "data": {"train": ["shapes"], "max_prompt_tokens": 128},
            "rollout": {"max_completion_tokens": 12, "stop_at_eos": False},
        }
    )
    worker = TransformersWorker(config, subject.folder)
    questions = sorted({row["prompt"] for row in subject.rows})
    rows = [next(row for row in subject.rows if row["prompt"] == question) for question in questions]
    rows += [{"id": "text", "prompt": "no picture at all, but a long text"}, subject.rows[-1]]
    prompts = [
        render_with_media(
            row, render=render_prompt, tokenizer=subject.tokenizer, data=subject.data, reader=subject.reader
        )
        for row in rows
    ]
    samples = [prompt for prompt in prompts for _ in range(3)]
    drawn = worker.generate(
        [prompt.token_ids for prompt in samples],
        list(range(len(samples))),
        1.0,
        12,
        False,
        [prompt.media for prompt in samples],
    )
    forbidden = set(placeholder_ids(worker.model.config))
    assert not any(forbidden & set(completion.token_ids) for completion in drawn)
    examples = [
        Example(
            prompt.token_ids + completion.token_ids,
            [False] * len(prompt.token_ids) + [True] * len(completion.token_ids),
            prompt.media,
        )
        for prompt, completion in zip(samples, drawn, strict=True)
    ]
    batch = subject.batch(examples)
    with torch.no_grad():
        found = logprobs_of(subject.policy().eval(), batch)
    for row, completion in enumerate(drawn):
        gap = (found[row][batch.completion_mask[row]] - torch.tensor(completion.logprobs)).abs()
        assert float(gap.max()) < 1e-4


def test_new_weights_reach_the_sampler_under_the_names_of_the_files(subject: Subject) -> None:
    config = Config.model_validate(
        {"run": {"name": "t"}, "model": {"path": str(subject.folder)}, "data": {"train": ["shapes"]}}
    )
    worker = TransformersWorker(config, subject.folder)
    policy = subject.policy()
    with torch.no_grad():
        for parameter in policy.base.parameters():
            parameter.mul_(1.25)
    worker.load_weights(names_in_files(policy.base, dict(policy.base.named_parameters())), 1)
    row = [5, 9, 200, 31, 7]
    batch = subject.batch([Example(row, [False] + [True] * 4)])
    with torch.no_grad():
        mine = logprobs_of(policy.eval(), batch)[0]
    assert float((mine - torch.tensor(worker.probe(row))).abs().max()) < 1e-5


def test_a_few_steps_of_likelihood_learn_the_answers(subject: Subject) -> None:
    policy = subject.policy()
    freeze_towers(policy.base)
    batch = subject.batch(subject.examples(6))
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
    losses: list[float] = []
    for _ in range(8):
        loss = -logprobs_of(policy, batch).sum() / batch.completion_mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]


def test_bfloat16_reads_float32_features(subject: Subject) -> None:
    batch = subject.batch(subject.examples())
    with torch.no_grad():
        half = logprobs_of(subject.policy(torch.bfloat16).eval(), batch)
        whole = logprobs_of(subject.policy().eval(), batch)
    assert half.dtype == torch.float32
    assert float((half - whole).abs().mean()) < 0.05


def test_rows_of_such_models_are_never_packed(subject: Subject) -> None:
    assert is_multimodal(subject.policy().base.config)
    assert not subject.policy().can_pack()


def test_a_row_whose_placeholders_are_not_its_features_is_refused(subject: Subject) -> None:
    example = subject.examples(1)[0]
    at = example.token_ids.index(subject.reader.token_id)
    for token_ids in (
        example.token_ids[:at] + example.token_ids[at + 1 :],
        [*example.token_ids, subject.reader.token_id],
    ):
        with pytest.raises(DataError, match="stand for"):
            subject.batch([Example(token_ids, [False] + [True] * (len(token_ids) - 1), example.media)])
    with pytest.raises(DataError, match="stand for"):
        subject.batch([Example(example.token_ids, example.completion_mask)])


def test_a_text_model_is_not_shown_pictures(tmp_path: Path) -> None:
    policy = PolicyModel(
        load_policy(make_miniature("chars", tmp_path / "model", 0), ModelConfig(path="x"), torch.float32)
    )
    ids = torch.tensor([[3, 4, 5]])
    with pytest.raises(ModelError, match="reads no images"):
        policy.decoder_inputs(ids, ids > 0, ids, torch.ones_like(ids), {"pixel_values": torch.zeros(1)})
    assert placeholder_ids(policy.base.config) == [] and tower_names(policy.base) == []


def test_towers_are_not_sharded_over_ranks_that_may_not_all_see() -> None:
    check_sharding_of_towers(3, 1)
    check_sharding_of_towers(2, 4)
    with pytest.raises(ConfigError, match="gathers a tower"):
        check_sharding_of_towers(3, 2)


def test_a_reward_model_that_sees_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_miniature("smolvlm-instruct", tmp_path / "model", 0)
    with pytest.raises(ModelError, match="reads pictures or sounds"):
        load_scorer(folder, ModelConfig(path="x"), torch.float32, 0)


def test_the_names_in_files_are_the_published_ones(tmp_path: Path) -> None:
    folder = make_miniature("qwen2-audio-7b-instruct", tmp_path / "model", 0)
    assert {name for name in checkpoint_names(folder) if "embed_tokens" in name} == {
        "language_model.model.embed_tokens.weight"  # Qwen/Qwen2-Audio-7B-Instruct, model.safetensors.index.json
    }
