from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oxrl_core.config.schema import LoraConfig, ModelConfig
from oxrl_core.errors import ModelError
from oxrl_core.models.load import load_policy
from oxrl_core.models.lora import adapter_state_dict, add_lora, bound_modules, merged_state_dict
from oxrl_core.models.miniature import make_miniature


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_miniature("chars", tmp_path_factory.mktemp("lora") / "model", seed=0)


def fresh(folder: Path):
    return load_policy(folder, ModelConfig(path="x"), torch.float32)


def adapted(folder: Path, seed: int = 0, **lora: object):
    return add_lora(fresh(folder), LoraConfig(enabled=True, rank=2, alpha=6, **lora), seed)


def test_all_linear_binds_every_linear_layer_but_the_head(model_folder: Path) -> None:
    names = bound_modules(adapted(model_folder))
    assert len(names) == 2 * 7, "two layers of q k v o gate up down"
    assert not any("lm_head" in name for name in names)


def test_named_targets_bind_what_they_name(model_folder: Path) -> None:
    assert len(bound_modules(adapted(model_folder, target_modules=("q_proj", "v_proj")))) == 4


@pytest.mark.parametrize("targets", [("nothing",), ("q_proj", "nothing")])
def test_a_target_that_binds_nothing_is_an_error_that_lists_the_layers(model_folder: Path, targets) -> None:
    with pytest.raises(ModelError) as caught:
        adapted(model_folder, target_modules=targets)
    assert "down_proj" in caught.value.next_step


def test_only_adapters_are_trained_and_they_start_as_nothing(model_folder: Path) -> None:
    model = adapted(model_folder)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    ids = torch.tensor([[2, 3, 4]])
    assert torch.equal(model(input_ids=ids).logits, fresh(model_folder)(input_ids=ids).logits)


def test_the_seed_decides_the_adapters_and_nothing_else_is_drawn(model_folder: Path) -> None:
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    first, again, other = (adapter_state_dict(adapted(model_folder, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_merging_adds_alpha_over_rank_times_b_a_and_touches_nothing(model_folder: Path) -> None:
    model = adapted(model_folder, target_modules=("q_proj",))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = fresh(model_folder).state_dict()
    merged = merged_state_dict(model)
    assert merged.keys() == start.keys()
    parts = adapter_state_dict(model)
    prefix = "base_model.model.model.layers.1.self_attn.q_proj"
    expected = start["model.layers.1.self_attn.q_proj.weight"] + (6 / 2) * (
        parts[f"{prefix}.lora_B.weight"] @ parts[f"{prefix}.lora_A.weight"]
    )
    assert torch.allclose(merged["model.layers.1.self_attn.q_proj.weight"], expected, atol=1e-7)
    assert torch.equal(
        merged["model.layers.1.self_attn.k_proj.weight"], start["model.layers.1.self_attn.k_proj.weight"]
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_tied_head_is_left_out(tmp_path: Path) -> None:
    model = fresh(make_miniature("qwen2.5-0.5b-instruct", tmp_path / "model", seed=0))
    weights = merged_state_dict(model)
    assert "lm_head.weight" not in weights
    assert weights["model.embed_tokens.weight"].data_ptr() != model.model.embed_tokens.weight.data_ptr()


def test_ranks_that_keep_nothing_get_nothing(model_folder: Path) -> None:
    assert merged_state_dict(adapted(model_folder), keep=False) == {}
    assert adapter_state_dict(adapted(model_folder), keep=False) == {}
