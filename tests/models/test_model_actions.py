"""A model that is given action tokens: each is one token both ways, the rest of it stays, and its code is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from oxrl_core.actions import ActionCode
from oxrl_core.config.schema import ModelConfig
from oxrl_core.errors import ConfigError, ModelError
from oxrl_core.models.actions import check_same_code, code_of_rows, read_code, with_actions
from oxrl_core.models.load import load_policy, load_tokenizer
from oxrl_core.models.miniature import make_miniature

CODE = ActionCode("uniform", 2, (-1.0, 0.0), (1.0, 0.5), bins=40)
CHUNK = [[-0.4, 0.1], [0.9, 0.3]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_miniature("smolvlm-instruct", tmp_path_factory.mktemp("model") / "model", 0)


@pytest.mark.parametrize(("bins", "grows"), [(40, True), (8, False)])
def test_tokens_take_free_rows_of_the_embedding_or_new_ones(
    plain: Path, tmp_path: Path, bins: int, grows: bool
) -> None:
    code = replace(CODE, bins=bins)
    folder = with_actions(plain, code, tmp_path / "acting")
    tokenizer = load_tokenizer(folder)
    text = code.write(CHUNK)
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(token_ids) == 4 and tokenizer.decode(token_ids, skip_special_tokens=True) == text
    before, after = (load_policy(path, ModelConfig(path="x"), torch.float32) for path in (plain, folder))
    old, new = (model.get_input_embeddings().weight for model in (before, after))
    assert len(new) == (len(tokenizer) if grows else len(old)) > max(token_ids)
    assert torch.equal(new[: len(old)], old)
    assert len(after.get_output_embeddings().weight) == len(new)
    kept = {name: value for name, value in before.state_dict().items() if "embed_tokens" not in name}
    assert all(torch.equal(value, after.state_dict()[name][: len(value)]) for name, value in kept.items())
    assert read_code(folder) == code
    assert with_actions(folder, code, tmp_path / "again") == folder  # it has them already
    assert with_actions(plain, code, tmp_path / "acting") == folder  # the run was started before
    assert not (plain / "actions.json").exists()


def test_another_code_and_rows_without_one_are_refused(plain: Path, tmp_path: Path) -> None:
    folder = with_actions(plain, CODE, tmp_path / "acting")
    with pytest.raises(ModelError, match="other actions"):
        check_same_code(folder, replace(CODE, high=(1.0, 0.6)))
    (folder / "actions.json").unlink()
    with pytest.raises(ModelError, match=r"no actions\.json"):
        with_actions(folder, CODE, tmp_path / "again")
    with pytest.raises(ConfigError, match="actions"):
        code_of_rows({"prompt": "hi"})
