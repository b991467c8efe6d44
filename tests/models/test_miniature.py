from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from oxrl_core.errors import ModelError
from oxrl_core.models.miniature import make_miniature, read_registry_entry, shrink

QWEN = "qwen2.5-0.5b-instruct"


def test_the_character_model_is_small_and_reads_nineteen_characters(tmp_path: Path) -> None:
    folder = make_miniature("chars", tmp_path / "model", seed=0)
    weights = load_file(folder / "model.safetensors")
    assert 390_000 < sum(value.numel() for value in weights.values()) < 410_000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 19
    assert tokenizer("420>").input_ids == [6, 4, 2, 16]
    assert tokenizer.decode([2, 4, 6, 1], skip_special_tokens=True) == "024"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.chat_template) == (0, 1, None)


def test_a_character_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_miniature("chars", tmp_path / "model", seed=0))
    with pytest.raises(Exception, match="vocabulary"):
        tokenizer("abc")


def test_equal_seeds_give_equal_weights_and_leave_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    folders = [make_miniature("chars", tmp_path / str(index), seed) for index, seed in enumerate((4, 4, 5))]
    assert torch.equal(torch.rand(3), expected)
    first, again, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_every_rank_of_torchrun_may_be_the_one_that_makes_it(tmp_path: Path) -> None:
    alone = make_miniature(QWEN, tmp_path / "alone", seed=0)
    folder = tmp_path / "model"
    # In a process of its own: a process has one process group, and other tests in this one have made theirs.
    program = (
        "import sys; from pathlib import Path; import torch\n"
        "from torch.testing._internal.distributed.fake_pg import FakeStore\n"
        "from oxrl_core.models.miniature import make_miniature\n"
        "torch.distributed.init_process_group('fake', store=FakeStore(), rank=1, world_size=2)\n"
        "make_miniature(sys.argv[1], Path(sys.argv[2]), seed=0)\n"
    )
    subprocess.run([sys.executable, "-c", program, QWEN, str(folder)], check=True, timeout=120)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in alone.iterdir()
    }
    assert (folder / "model.safetensors").is_file()


def test_a_registry_model_keeps_its_architecture(tmp_path: Path) -> None:
    folder = make_miniature(QWEN, tmp_path / "model", seed=0)
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "qwen2"
    assert config.tie_word_embeddings is True
    assert config.vocab_size == 320
    weights = load_file(folder / "model.safetensors")
    assert sum(value.numel() for value in weights.values()) == 337_024
    assert "model.layers.1.self_attn.q_proj.bias" in weights
    assert "lm_head.weight" not in weights


@pytest.mark.parametrize("text", ["Héllo, the 12 men's\n\n  漢字 done", "plain words of it all", "", "\t<tag> 3.14"])
def test_the_byte_tokenizer_reads_any_text_back(tmp_path: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_miniature(QWEN, tmp_path / "model", seed=0))
    assert len(tokenizer) == 320
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_chat_turns_end_with_the_eos_token_and_special_tokens_are_single(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_miniature(QWEN, tmp_path / "model", seed=0))
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text).input_ids
    assert ids.count(1) == 3
    assert ids.count(tokenizer.eos_token_id) == 2
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)


def test_the_registry_states_the_published_size() -> None:
    """Computed from the architecture by hand: tied embeddings, 24 layers, biases on q, k and v."""
    entry = read_registry_entry(QWEN)
    facts = entry["architecture"]
    hidden, mlp, layers = facts["hidden_size"], facts["intermediate_size"], facts["num_hidden_layers"]
    keys = facts["num_key_value_heads"] * hidden // facts["num_attention_heads"]
    attention = hidden * hidden + hidden + 2 * (hidden * keys + keys) + hidden * hidden
    total = facts["vocab_size"] * hidden + layers * (attention + 3 * hidden * mlp + 2 * hidden) + hidden
    assert entry["parameters"] == total == 494_032_768


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"chars, .*qwen2\.5-0\.5b-instruct"):
        make_miniature("qwen9", tmp_path / "model", seed=0)


def test_an_architecture_without_a_rule_is_refused() -> None:
    with pytest.raises(ModelError, match="mamba"):
        shrink({"model_type": "mamba"})


def test_a_folder_in_the_way_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="exists and holds no model"):
        make_miniature("chars", tmp_path / "model", seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "no half-made model stays behind"
