"""Log-probs against the model's own logits, for the architectures whose heads differ."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_models import ARCHITECTURES, Largest, build, rows

from oxrl_core.errors import ModelError
from oxrl_core.models.logprobs import PolicyModel, signals_of_logits


def expected(model: torch.nn.Module, batch: dict[str, torch.Tensor], temperature: float) -> tuple[torch.Tensor, ...]:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    distribution = torch.log_softmax(logits / temperature, -1)[:, :-1]
    logprobs = torch.zeros(batch["input_ids"].shape)
    entropy = torch.zeros(batch["input_ids"].shape)
    logprobs[:, 1:] = distribution.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    entropy[:, 1:] = -(distribution.exp() * distribution).sum(-1)
    present = batch["attention_mask"].clone()
    present[:, 0] = False
    return logprobs * present, entropy * present


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_logprobs_entropies_and_gradients_are_those_of_the_whole_logits(model_type: str, attention: str) -> None:
    model = build(model_type, attention)
    policy = PolicyModel(model, chunk_elements=5 * 320)
    assert policy.check_head() <= 1e-4
    assert policy.uses_own_head, "the announced transform is the model's"
    batch = rows([9, 4, 12], 12)
    weights = torch.rand(3, 12)
    results = []
    for way in ("chunks", "whole"):
        model.zero_grad()
        values = policy(**batch, temperature=0.7, with_entropy=True) if way == "chunks" else expected(model, batch, 0.7)
        ((values[0] + 0.3 * values[1]) * weights).sum().backward()
        results.append((*values, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (logprobs, entropy, gradients), (logprobs2, entropy2, gradients2) = results
    assert logprobs.dtype == torch.float32
    assert torch.allclose(logprobs, logprobs2, atol=2e-5)
    assert torch.allclose(entropy, entropy2, atol=2e-5)
    for name, gradient in gradients2.items():
        assert float((gradients[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-6, name


def test_a_head_that_announces_nothing_is_found_out_and_the_models_forward_is_used() -> None:
    model = build("llama")
    original = type(model).forward

    def doubled(*arguments: Any, **named: Any) -> Any:
        output = original(model, *arguments, **named)
        output.logits = output.logits * 2
        return output

    model.forward = doubled
    policy = PolicyModel(model)
    assert policy.check_head() > 1e-2
    assert not policy.uses_own_head
    batch = rows([9, 4, 12], 12)
    logprobs, entropy = policy(**batch, temperature=1.0, with_entropy=True)
    reference = expected(model, batch, 1.0)
    assert torch.allclose(logprobs, reference[0], atol=2e-5)
    assert torch.allclose(entropy, reference[1], atol=2e-5)
    logprobs.sum().backward()
    assert float(model.get_output_embeddings().weight.grad.abs().max()) > 0


def test_only_the_wanted_columns_are_computed() -> None:
    policy = PolicyModel(build())
    batch = rows([8, 8], 8)
    wanted = torch.zeros(2, 8, dtype=torch.bool)
    wanted[0, 0] = wanted[0, 5] = wanted[1, 7] = True
    everything, _ = policy(**batch, temperature=1.0)
    some, entropy = policy(**batch, temperature=1.0, wanted=wanted)
    assert entropy is None
    assert (some != 0).nonzero().tolist() == [[0, 5], [1, 7]], "the first token of a row is predicted by nothing"
    assert torch.equal(some[wanted], everything[wanted])


def test_a_batch_with_nothing_to_compute_still_reaches_every_parameter() -> None:
    model = build()
    policy = PolicyModel(model)
    logprobs, _ = policy(**rows([2], 2), temperature=1.0, wanted=torch.zeros(1, 2, dtype=torch.bool))
    logprobs.sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) == 0 for p in model.parameters())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_give_the_logprobs_and_gradients_of_separate_rows(attention: str) -> None:
    model = build(attention=attention)
    policy = PolicyModel(model)
    apart = rows([5, 7, 3], 7)
    pieces = [apart["input_ids"][row, :length] for row, length in enumerate((5, 7, 3))]
    joined = {
        "input_ids": torch.cat([*pieces, torch.zeros(2, dtype=torch.long)])[None],
        "position_ids": torch.tensor([[*range(5), *range(7), *range(3), 0, 0]]),
        "segment_ids": torch.tensor([[1] * 5 + [2] * 7 + [3] * 3 + [0, 0]]),
    }
    joined["attention_mask"] = joined["segment_ids"] > 0
    gradients = []
    values = []
    for batch in (apart, joined):
        model.zero_grad()
        logprobs, _ = policy(**batch, temperature=1.0)
        logprobs.square().sum().backward()
        values.append(logprobs[batch["attention_mask"]].detach())
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert torch.allclose(values[0], values[1], atol=1e-5)
    assert (values[1] == 0).nonzero().flatten().tolist() == [0, 5, 12], "segment starts"
    for name, gradient in gradients[0].items():
        assert float((gradients[1][name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-4, name


def test_an_attention_that_takes_no_mask_refuses_packed_rows() -> None:
    model = build()
    model.config._attn_implementation = "flash_attention_2"
    policy = PolicyModel(model)
    assert not policy.can_pack()
    batch = rows([4], 4)
    batch["segment_ids"] = torch.tensor([[1, 1, 2, 2]])
    with pytest.raises(ModelError, match="flash_attention_2"):
        policy(**batch, temperature=1.0)


def test_a_fair_choice_among_four_has_log_probs_and_entropy_of_two_bits() -> None:
    logprobs, entropy = signals_of_logits(torch.zeros(2, 4), torch.tensor([0, 3]), 1.0, True)
    assert logprobs.tolist() == pytest.approx([-2 * math.log(2)] * 2)
    assert entropy is not None
    assert entropy.tolist() == pytest.approx([2 * math.log(2)] * 2)


def test_the_temperature_divides_the_logits() -> None:
    """Logits (ln 4, 0) at temperature 2 are odds of 2 to 1."""
    logprobs, _ = signals_of_logits(torch.tensor([[math.log(4.0), 0.0]]), torch.tensor([0]), 2.0, False)
    assert logprobs.item() == pytest.approx(math.log(2 / 3))


def test_bfloat16_logits_are_summed_in_float32() -> None:
    """A log-softmax in bfloat16 cannot tell 1/50000 from its neighbours; in float32 it is exact to 1e-6."""
    logprobs, _ = signals_of_logits(torch.zeros(1, 50_000, dtype=torch.bfloat16), torch.tensor([7]), 1.0, False)
    assert logprobs.dtype == torch.float32
    assert logprobs.item() == pytest.approx(-math.log(50_000), abs=1e-5)


def test_no_tensor_of_all_logits_exists_in_forward_or_backward() -> None:
    policy = PolicyModel(build(vocab_size=4096), chunk_elements=16 * 4096)
    batch = rows([128] * 4, 128)
    batch["input_ids"] = batch["input_ids"].clamp(max=319)
    with Largest() as largest:
        logprobs, entropy = policy(**batch, temperature=1.0, with_entropy=True)
        (logprobs + entropy).sum().backward()
    assert largest.elements < 4 * 128 * 4096 / 4, "chunks of 16 tokens, a weight of 4096 x 64, attention of 128 x 128"


def test_a_sum_of_4096_log_probs_of_bfloat16_weights_is_that_of_float64() -> None:
    """Given the same logits: the log-softmax and the sum over the row lose less than 1e-4 of it."""
    model = build(max_position_embeddings=4096).to(torch.bfloat16)
    policy = PolicyModel(model, chunk_elements=512 * 320)
    seen: list[torch.Tensor] = []
    transform = policy.head.transform

    def record(logits: torch.Tensor) -> torch.Tensor:
        seen.append(transform(logits))
        return seen[-1]

    policy.head.transform = record
    batch = rows([4096], 4096)
    with torch.no_grad():
        logprobs, _ = policy(**batch, temperature=0.7)
    assert logprobs.dtype == torch.float32
    logits = torch.cat(seen).double() / 0.7
    targets = batch["input_ids"][0, 1:, None]
    exact = float((logits - logits.logsumexp(-1, keepdim=True)).gather(-1, targets).sum())
    assert float(logprobs.sum()) == pytest.approx(exact, rel=1e-6), "the limit is 1e-4"
    coarse = float(logits.bfloat16().log_softmax(-1).gather(-1, targets).sum(dtype=torch.bfloat16))
    assert abs(coarse / exact - 1) > 1e-4, "in bfloat16 it would be lost"
