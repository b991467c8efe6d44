from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oxrl_core.config.schema import ModelConfig
from oxrl_core.errors import ModelError
from oxrl_core.models.load import FINAL_MODEL_FOLDER, load_policy, load_tokenizer, resolve_model
from oxrl_core.models.miniature import make_miniature


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_miniature("chars", tmp_path_factory.mktemp("load") / "model", seed=0)


def resolve(path: str, tmp_path: Path) -> Path:
    return resolve_model(path, run_folder=tmp_path / "run", home=tmp_path, seed=3)


def test_a_miniature_is_made_once_into_the_run(tmp_path: Path) -> None:
    folder = resolve("miniature:chars", tmp_path)
    assert folder == tmp_path / "run" / "model"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve("miniature:chars", tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before, "a resumed run keeps the weights it began with"


def test_a_local_folder_and_the_final_model_of_a_run_are_found(model_folder: Path, tmp_path: Path) -> None:
    assert resolve(str(model_folder), tmp_path) == model_folder
    (tmp_path / "runs" / "r1").mkdir(parents=True)
    (tmp_path / "runs" / "r1" / FINAL_MODEL_FOLDER).symlink_to(model_folder)
    assert load_tokenizer(resolve("run:r1", tmp_path)).eos_token_id == 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("./nowhere", "does not exist"),
        ("/nowhere/at/all", "does not exist"),
        ("a b", "does not exist"),
        ("run:missing", "config.json is missing"),
        ("miniature:missing", "no miniature"),
    ],
)
def test_a_model_that_is_not_there_is_refused_with_the_place(tmp_path: Path, path: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        resolve(path, tmp_path)
    assert caught.value.next_step


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="no safetensors weights"):
        resolve(str(tmp_path / "old"), tmp_path)


def test_a_policy_is_loaded_in_the_precision_asked_for(model_folder: Path) -> None:
    policy = load_policy(model_folder, ModelConfig(path="x", attention="eager"), torch.bfloat16)
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.bfloat16}
    assert policy.config._attn_implementation == "eager"
    assert policy.config.use_cache is False
    assert not policy.is_gradient_checkpointing
    config = ModelConfig(path="x", gradient_checkpointing=True)
    assert load_policy(model_folder, config, torch.float32).is_gradient_checkpointing


def test_a_weight_that_is_not_in_the_files_is_an_error_and_never_random(model_folder: Path, tmp_path: Path) -> None:
    for file in model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(model_folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights .* lm_head\.weight"):
        load_policy(tmp_path, ModelConfig(path="x"), torch.float32)


def test_code_that_comes_with_a_model_is_not_run(model_folder: Path, tmp_path: Path) -> None:
    for file in model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "evil"
    config["auto_map"] = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(tmp_path, ModelConfig(path="x"), torch.float32)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_without_eos_is_refused_and_a_missing_pad_is_filled(model_folder: Path, tmp_path: Path) -> None:
    for file in model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(tmp_path).pad_token_id == 1
    del settings["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="no EOS"):
        load_tokenizer(tmp_path)
