"""Tensor files are read by the safetensors library, and carry the hash that they were written with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from oxrl_core.engine.checkpoint import hash_file
from oxrl_core.engine.tensor_file import DTYPES, write_record, write_tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_library_reads_what_was_written_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    numbers = torch.arange(24).reshape(2, 3, 4).to(dtype)
    tensors = {"b": numbers, "a": torch.tensor(7).to(dtype), "empty": torch.zeros(0, 3, dtype=dtype)}
    tensors["turned"] = numbers.transpose(0, 2)
    digest = write_tensors(tmp_path / "file", tensors)
    found = load_file(tmp_path / "file")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor), name
    assert digest == hash_file(tmp_path / "file")


def test_widths_may_be_mixed_and_more_than_one_block_is_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {"flag": torch.tensor([True]), "wide": torch.randn(5_000_001), "narrow": torch.randn(3).bfloat16()}
    digest = write_tensors(tmp_path / "file", tensors)
    assert digest == hash_file(tmp_path / "file")
    with safe_open(tmp_path / "file", "pt") as opened:
        assert torch.equal(opened.get_tensor("wide"), tensors["wide"])
        assert torch.equal(opened.get_tensor("narrow"), tensors["narrow"])


def test_a_record_is_json_with_its_hash(tmp_path: Path) -> None:
    digest = write_record(tmp_path / "file", {"steps": 3, "running": {"mean": 0.1}})
    assert json.loads((tmp_path / "file").read_text()) == {"steps": 3, "running": {"mean": 0.1}}
    assert digest == hash_file(tmp_path / "file")
