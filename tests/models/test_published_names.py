"""Weights under the names of published files, and back into a live model that holds them otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oxrl_core.config.schema import ModelConfig
from oxrl_core.models.load import load_policy
from oxrl_core.models.miniature import make_miniature
from oxrl_core.models.multimodal import mend_names, names_in_files, with_packed_experts


@pytest.mark.engine
def test_experts_of_files_are_those_of_the_live_model(tmp_path: Path) -> None:
    folder = make_miniature("qwen3.5-35b-a3b", tmp_path / "model", 0)
    model = load_policy(folder, ModelConfig(path=str(folder)), torch.float32)
    own = model.state_dict()
    files = names_in_files(model, dict(own))
    assert "model.language_model.layers.0.mlp.experts.3.up_proj.weight" in files
    packed = with_packed_experts(files, own)
    name = "model.language_model.layers.1.mlp.experts.gate_up_proj"
    assert name in packed and torch.equal(packed[name], own[name])
    assert all(torch.equal(packed[key], own[key]) for key in own if ".experts." in key)
    missing = {key: tensor for key, tensor in files.items() if "layers.0.mlp.experts.2.gate" not in key}
    assert "model.language_model.layers.0.mlp.experts.gate_up_proj" not in with_packed_experts(missing, own)


def test_a_part_that_was_named_twice_gets_its_published_name(tmp_path: Path) -> None:
    tensor = torch.arange(3.0)
    names = {"language_model.model.model.norm.weight": tensor, "audio_tower.conv1.bias": tensor + 1}
    save_file(names, tmp_path / "model.safetensors", metadata={"format": "pt"})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"language_model.model.model.norm.weight": "model.safetensors"}}')
    mend_names(tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert set(found) == {"language_model.model.norm.weight", "audio_tower.conv1.bias"}
    assert torch.equal(found["language_model.model.norm.weight"], tensor)
    assert index.read_text() == '{"weight_map": {"language_model.model.norm.weight": "model.safetensors"}}'


@pytest.mark.parametrize(
    ("slug", "end", "text"),
    [
        ("gemma-2-2b-it", "<end_of_turn>", "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"),
        ("mistral-7b-instruct-v0.3", "</s>", "[INST] hi[/INST]"),
        ("deepseek-r1-distill-qwen-7b", "<｜end▁of▁sentence｜>", "<｜User｜>hi<｜Assistant｜><think>\n"),
    ],
)
def test_a_miniature_speaks_the_template_of_its_family(slug: str, end: str, text: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_miniature(slug, tmp_path / "model", 0))
    turns = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == text
    assert len(tokenizer) == 320 and tokenizer(end).input_ids == [tokenizer.eos_token_id] == [2]
    assert tokenizer.decode(tokenizer(text).input_ids) == text
