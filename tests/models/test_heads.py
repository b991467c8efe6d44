"""Values and scores of models against plain transformers, and the folders that they come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from oxrl_core.config.schema import LoraConfig, ModelConfig
from oxrl_core.errors import ModelError
from oxrl_core.models.heads import ScalarHead, ScoreModel, make_value_head, state_values
from oxrl_core.models.load import load_backbone, load_policy, load_scorer
from oxrl_core.models.lora import add_lora, bound_modules
from oxrl_core.models.miniature import make_miniature

MODEL = ModelConfig(path="x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_miniature("qwen2.5-0.5b-instruct", tmp_path_factory.mktemp("heads") / "model", seed=0)


def rows(lengths: list[int], width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    present = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    return {
        "input_ids": torch.randint(3, 320, (len(lengths), width), generator=generator) * present,
        "attention_mask": present,
        "position_ids": torch.arange(width).expand(len(lengths), width) * present,
        "segment_ids": present.long(),
    }


def copy_of(folder: Path, target: Path) -> Path:
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def saved(folder: Path, target: Path, labels: int = 1) -> Path:
    """A reward model as transformers itself would make and write it, with weights in its head that can be seen."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels, pad_token_id=0)
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(3))
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def test_values_are_aligned_with_the_tokens_that_they_come_before() -> None:
    """Hidden state of one number, head weight 2 and bias 1: the value before token t is 2 x hidden(t - 1) + 1."""
    head = ScalarHead(1, bias=True)
    with torch.no_grad():
        head.weight.fill_(2)
        head.bias.fill_(1)
    hidden = torch.tensor([[1.0, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]])[..., None]
    segments = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 2, 2, 0]])
    assert state_values(head, hidden, segments).tolist() == [
        [0, 3, 5, 7, 0],
        [0, 13, 15, 17, 19],
        [0, 23, 0, 27, 29],
    ]


def test_what_stands_in_padding_reaches_no_value_and_no_gradient() -> None:
    head = make_value_head(2, seed=0, dtype=torch.float32)
    hidden = torch.ones(1, 4, 2)
    hidden[0, 2:] = float("nan")
    values = state_values(head, hidden, torch.tensor([[1, 1, 0, 0]]))
    values.sum().backward()
    assert values.isfinite().all()
    assert head.weight.grad is not None and head.weight.grad.isfinite().all()


def test_a_head_of_bfloat16_weights_computes_in_float32() -> None:
    head = ScalarHead(512, bias=False).bfloat16()
    hidden = torch.randn(3, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = hidden.double() @ head.weight.detach().double().T
    found = head(hidden).detach()
    assert found.dtype == torch.float32
    assert float((found.double() - exact).abs().max()) < 1e-6


def test_the_score_is_that_of_transformers_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    reward = saved(folder, tmp_path)
    batch = rows([9, 4, 12, 1], 12)
    plain = AutoModelForSequenceClassification.from_pretrained(reward, dtype=torch.float32).eval()
    scorer = ScoreModel(load_scorer(reward, MODEL, torch.float32, seed=0)).eval()
    with torch.no_grad():
        expected = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        assert torch.equal(scorer(**batch), expected)
    assert len(set(expected.tolist())) == 4


def test_a_score_does_not_depend_on_padding_or_on_the_pad_token(folder: Path, tmp_path: Path) -> None:
    scorer = ScoreModel(load_scorer(saved(folder, tmp_path), MODEL, torch.float32, seed=0)).eval()
    batch = rows([9, 4], 9)
    wide = {name: torch.nn.functional.pad(value, (0, 7)) for name, value in batch.items()}
    wide["input_ids"] = wide["input_ids"].masked_fill(~wide["attention_mask"], 2)  # padded with EOS
    assert torch.allclose(scorer(**batch), scorer(**wide), atol=1e-6)


def test_packed_rows_have_no_score(folder: Path) -> None:
    scorer = ScoreModel(load_scorer(folder, MODEL, torch.float32, seed=0))
    batch = rows([6], 6)
    batch["segment_ids"] = torch.tensor([[1, 1, 1, 2, 2, 2]])
    with pytest.raises(ModelError, match="packed"):
        scorer(**batch)


def test_a_causal_folder_lends_its_backbone_and_the_seed_decides_the_score_head(folder: Path) -> None:
    first, again, other = (load_scorer(folder, MODEL, torch.float32, seed) for seed in (1, 1, 2))
    assert torch.equal(first.score.weight, again.score.weight)
    assert not torch.equal(first.score.weight, other.score.weight)
    assert float(first.score.weight.detach().abs().max()) < 5 / 129
    policy = dict(load_policy(folder, MODEL, torch.float32).named_parameters())
    assert all(torch.equal(p, policy[name]) for name, p in first.named_parameters() if name != "score.weight")


def test_a_reward_model_without_its_head_is_refused_and_so_is_one_with_three_labels(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("one", "three"):
        (tmp_path / name).mkdir()
    reward = saved(folder, tmp_path / "one")
    weights = load_file(reward / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, reward / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"score\.weight"):
        load_scorer(reward, MODEL, torch.float32, seed=0)
    with pytest.raises(ModelError, match="3 labels"):
        load_scorer(saved(folder, tmp_path / "three", labels=3), MODEL, torch.float32, seed=0)


def test_another_missing_weight_of_a_causal_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    weights = load_file(copy_of(folder, tmp_path) / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for load in (lambda: load_scorer(tmp_path, MODEL, torch.float32, 0), lambda: load_backbone(tmp_path, MODEL, None)):
        with pytest.raises(ModelError, match=r"1 weights .*norm\.weight"):
            load()


def test_rows_are_padded_with_a_token_that_ends_none(tmp_path: Path) -> None:
    """transformers takes the last token that is not padding: were that EOS, every score would be one token early."""
    folder = make_miniature("chars", tmp_path / "model", seed=0)
    config = json.loads((folder / "config.json").read_text())
    config["pad_token_id"] = config["eos_token_id"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    assert load_scorer(folder, MODEL, torch.float32, 0).config.pad_token_id == 0, "the tokenizer's own"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="no token can pad"):
        load_scorer(folder, MODEL, torch.float32, 0)
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": ":"}))
    found = load_scorer(folder, MODEL, torch.float32, 0).config.pad_token_id
    assert found == AutoTokenizer.from_pretrained(folder)(":").input_ids[0], "BOS stands at the beginning"


def test_a_backbone_has_no_output_head(tmp_path: Path) -> None:
    folder = make_miniature("chars", tmp_path / "model", seed=0)
    backbone = load_backbone(folder, MODEL, torch.bfloat16)
    assert not any("lm_head" in name for name, _ in backbone.named_parameters())
    weights = load_file(folder / "model.safetensors")
    for name, parameter in backbone.named_parameters():
        assert torch.equal(parameter, weights[f"model.{name}"].bfloat16())


def test_adapters_leave_the_score_head_to_be_trained_whole(folder: Path) -> None:
    lora = LoraConfig(enabled=True, rank=2, alpha=4)
    scorer = add_lora(load_scorer(folder, MODEL, torch.float32, 0), lora, seed=0)
    trained = [name for name, parameter in scorer.named_parameters() if parameter.requires_grad]
    assert [name for name in trained if "lora_" not in name] == ["base_model.model.score.weight"]
    assert len(bound_modules(scorer)) == 2 * 7
    assert not any("score" in name for name in bound_modules(scorer))
    backbone = add_lora(load_backbone(folder, MODEL, torch.float32), lora, seed=0)
    assert len(bound_modules(backbone)) == 2 * 7
    wrong = LoraConfig(enabled=True, rank=2, alpha=4, target_modules=("q_proj", "score"))
    with pytest.raises(ModelError, match="score head"):
        ScoreModel(add_lora(load_scorer(folder, MODEL, torch.float32, 0), wrong, seed=0))
