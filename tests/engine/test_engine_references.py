"""References that move, in the real engine: whole models and adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from head_jobs import one, step, with_config
from rank_jobs import STAGES, make_batch, make_rows
from safetensors.torch import load_file

from oxrl_core.errors import ConfigError

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_a_refreshed_reference_is_the_policy_of_then(folder: Path, tmp_path: Path, stage: int, lora: bool) -> None:
    batch = make_batch(make_rows())
    engine = one(folder, "tokens+value", stage, lora=lora, with_reference=True)
    start = engine.reference_logprobs(batch, 1.0)
    step(engine, "tokens+value", 0)
    assert torch.equal(engine.reference_logprobs(batch, 1.0), start)
    with engine.no_grad():
        then = engine.logprobs(batch, 1.0)[0]
    first = engine.export_reference()
    assert all(torch.equal(value, first[name]) for name, value in load_file(folder / "model/model.safetensors").items())
    engine.refresh_reference()
    assert torch.equal(engine.reference_logprobs(batch, 1.0), then)
    exported = engine.export_weights()
    step(engine, "tokens+value", 1)
    reference = engine.export_reference()
    assert reference.keys() == exported.keys() == first.keys()
    assert all(torch.equal(value, exported[name]) for name, value in reference.items()), "the policy of then"
    assert torch.equal(engine.reference_logprobs(batch, 1.0), then), "it does not move with the policy"
    with engine.no_grad():
        assert float((engine.logprobs(batch, 1.0)[0] - then).abs().max()) > 1e-3
    engine.save(tmp_path / "state")
    again = one(folder, "tokens+value", stage, lora=lora, with_reference=True)
    assert torch.equal(again.reference_logprobs(batch, 1.0), start)
    again.load(tmp_path / "state")
    assert torch.equal(again.reference_logprobs(batch, 1.0), then)
    one(folder, "tokens+value", stage, lora=lora, with_reference=True).save(tmp_path / "first")
    again.load(tmp_path / "first")
    assert torch.equal(again.reference_logprobs(batch, 1.0), start), "a checkpoint from before the refresh"
    again.drop_reference()
    with pytest.raises(ConfigError, match="no reference"):
        again.reference_logprobs(batch, 1.0)


def test_refreshing_between_steps_changes_no_step(folder: Path) -> None:
    weights = []
    for refreshes in (False, True):
        engine = one(folder, "tokens+value", 3, lora=True, with_reference=True)
        for number in range(3):
            if refreshes:
                engine.refresh_reference()
                engine.reference_logprobs(make_batch(make_rows()), 1.0)
            step(engine, "tokens+value", number)
        weights.append(engine.export_weights())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_adapters_on_two_ranks_of_zero_3_refresh_save_and_load(folder: Path, head_ranks: dict) -> None:
    seen = load_file(folder / "adapters.reference.safetensors")
    assert not torch.equal(seen["0"], seen["1"])
    assert torch.equal(seen["1"], seen["2"]), "the refreshed reference is the policy"
    assert torch.equal(seen["2"], seen["3"]), "and stays"
    assert torch.equal(seen["3"], seen["4"]), "also in the next process"


def test_a_saved_adapter_holds_no_reference(folder: Path, tmp_path: Path) -> None:
    engine = one(folder, "tokens", lora=True, with_reference=True)
    engine.refresh_reference()
    engine.export_model(tmp_path / "model")
    names = load_file(tmp_path / "model" / "adapter" / "adapter_model.safetensors")
    assert len(names) == 2 * 2 * 7, "two layers of q k v o gate up down, A and B"
    assert not any("reference" in name or "default" in name for name in names)
    before = one(folder, "tokens").num_parameters
    assert engine.num_parameters - engine.num_trained == before, "the copy counts as no parameter of the model"


def test_a_reference_is_loaded_where_the_loss_or_the_kl_term_asks(folder: Path) -> None:
    assert with_config(folder, algorithm={"name": "sgrpo"}).reference is None
    assert with_config(folder, algorithm={"name": "sgrpo", "kl_coef": 0.1}).reference is not None
    assert with_config(folder, algorithm={"name": "sgrpo", "kl_coef": 0.1}, head="value").reference is None
    assert with_config(folder, algorithm={"name": "head_jobs:referenced_loss"}).reference is not None
