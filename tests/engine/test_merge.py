"""`oxrl merge` gives the very bits of PEFT's merge_and_unload, in a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from oxrl_core.config.schema import LoraConfig, ModelConfig
from oxrl_core.engine.merge import base_of, merge
from oxrl_core.errors import ModelError
from oxrl_core.models.load import load_policy, load_tokenizer
from oxrl_core.models.lora import adapter_settings, adapter_state_dict, add_lora
from oxrl_core.models.miniature import make_miniature


def train_adapter(base: Path, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """An adapter that does something, written as a run's export writes it."""
    model = add_lora(load_policy(base, ModelConfig(path="x"), dtype), LoraConfig(enabled=True, rank=3, alpha=5), 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    folder.mkdir()
    adapter_settings(model).save_pretrained(str(folder))
    save_file(adapter_state_dict(model), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", ["chars", "qwen2.5-0.5b-instruct"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_is_what_peft_does_bit_for_bit(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    base = make_miniature(name, tmp_path / "base", seed=0)
    if dtype != torch.float32:
        AutoModelForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(base)
    adapter = train_adapter(base, tmp_path / "adapter", dtype)
    merge(adapter, base, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    expected = peft.PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) and found[key].dtype == dtype for key in expected)
    start = AutoModelForCausalLM.from_pretrained(base, dtype="auto").state_dict()
    changed = [key for key in start if not torch.equal(found[key], start[key])]
    assert changed
    assert all(key.endswith("_proj.weight") for key in changed)
    assert load_tokenizer(tmp_path / "merged").eos_token_id == load_tokenizer(base).eos_token_id


def test_an_adapter_of_another_model_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    adapter = train_adapter(make_miniature("chars", tmp_path / "base", seed=0), tmp_path / "adapter")
    other = make_miniature("qwen2.5-0.5b-instruct", tmp_path / "other", seed=0)
    with pytest.raises(ModelError, match="does not fit its base"):
        merge(adapter, other, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "other"]


def test_a_base_that_has_moved_is_asked_for(tmp_path: Path) -> None:
    base = make_miniature("chars", tmp_path / "base", seed=0)
    adapter = train_adapter(base, tmp_path / "adapter")
    assert base_of(adapter, None, "") == base
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError) as caught:
        base_of(adapter, None, "")
    assert "--base" in caught.value.next_step
    assert base_of(adapter, None, str(tmp_path / "moved")) == tmp_path / "moved"
