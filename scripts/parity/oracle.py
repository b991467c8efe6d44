"""Both sides of a comparison with TRL: its trainers without their models, and the cases that they and our losses see.

TRL's own methods are called on tensors that stand for what a model said. Where our row has T columns, TRL's has one
prompt token more, because it cuts the first column off: so both sides add the same numbers in the same order. In
float32 a sum over 1,024 tokens is known to about 1e-4 only, and another order would drown what is compared here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor

from oxrl_core.types import Pairs, ReferencedPairs
from scripts.parity.result import Parity

VOCABULARY = 11
SATURATED = 1e-3  # where 1 - sigmoid(x) is next to 0, TRL loses digits that ours keeps; such a gradient moves nothing
Trainer = TypeVar("Trainer")
Loss = Callable[[Tensor], Tensor]  # from the tensor that gradients are compared at to the mean over the batch


def trainer_of(kind: type[Trainer], **attributes: Any) -> Trainer:
    """A TRL trainer that can compute its loss and nothing else: one process on the CPU, no model, no dataset."""
    made = object.__new__(kind)
    alone = {
        "device": torch.device("cpu"),
        "gather": lambda tensor: tensor,
        "gather_for_metrics": lambda tensor: tensor,
        "parallelism_config": None,
        "num_processes": 1,
    }
    common = {
        "accelerator": SimpleNamespace(**alone),
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    for name, value in {**common, **attributes}.items():
        setattr(made, name, value)
    return made


def model_output(log_probs: Tensor, mask: Tensor) -> SimpleNamespace:
    """What TRL's fused language-model head returns; all but the log-probs and `log_sum_sq_probs` is for metrics."""
    nothing = torch.zeros_like(log_probs).detach()
    return SimpleNamespace(
        log_probs=log_probs,
        entropy=nothing,
        log_sum_sq_probs=nothing,  # WPO's weights are those of the paper's eq. 2 where it is 0
        mean_logits=nothing,
        is_top1=nothing.bool(),
        label_mask=mask,
    )


def with_prompt_token(tensor: Tensor) -> Tensor:
    """The tensor (B, T) with a column of zeros before it."""
    return torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)


def compare(
    algorithm: str, oracle: str, cases: Iterable[tuple[Tensor, Loss, Loss]], gradient_floor: float = SATURATED
) -> Parity:
    """The largest errors over cases of (tensor, our loss of it, the oracle's).

    That of a value is |ours - theirs| / max(1, |theirs|). That of a gradient is the largest |ours - theirs| of an entry
    over the largest |theirs| (or `gradient_floor`): at 1,024 tokens an entry is about 1e-3, and an absolute 1e-6 would
    not be strict.
    """
    count, value_error, gradient_error = 0, 0.0, 0.0
    for at, ours, theirs in cases:
        value, gradient = value_and_gradient(ours, at)
        expected, expected_gradient = value_and_gradient(theirs, at)
        count += 1
        value_error = worst(value_error, value - expected, expected, 1.0)
        gradient_error = worst(gradient_error, gradient - expected_gradient, expected_gradient, gradient_floor)
    return Parity(algorithm, oracle, count, value_error, gradient_error)


def value_and_gradient(loss: Loss, at: Tensor) -> tuple[Tensor, Tensor]:
    """The loss at a tensor and its gradient there."""
    leaf = at.clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def worst(before: float, difference: Tensor, expected: Tensor, floor: float) -> float:
    error = difference.abs().max() / expected.abs().max().clamp(min=floor)
    # A NaN must not lose every comparison.
    return max(before, float(error)) if torch.isfinite(error) else float("inf")


@dataclass(frozen=True)
class PairCase:
    """B pairs as 2B rows, the chosen ones first; token-aligned like everything of ours."""

    name: str
    logits: Tensor  # (2B, T, V): those that predict the token of the same column
    ids: Tensor  # (2B, T)
    mask: Tensor  # (2B, T) bool
    ref: Tensor  # (2B,)

    @property
    def logprobs(self) -> Tensor:
        """(2B, T), 0 outside the mask."""
        return self.logprobs_at(self.logits)

    def logprobs_at(self, logits: Tensor) -> Tensor:
        said = logits.log_softmax(-1).gather(-1, self.ids[..., None])[..., 0]
        return said.masked_fill(~self.mask, 0.0)

    def pairs(self, logprobs: Tensor) -> Pairs:
        return Pairs(**self._fields(logprobs))

    def referenced(self, logprobs: Tensor) -> ReferencedPairs:
        chosen_ref, rejected_ref = self.ref.chunk(2)
        return ReferencedPairs(**self._fields(logprobs), chosen_ref=chosen_ref, rejected_ref=rejected_ref)

    def _fields(self, logprobs: Tensor) -> dict[str, Tensor]:
        chosen, rejected = logprobs.chunk(2)
        chosen_mask, rejected_mask = self.mask.chunk(2)
        return {
            "chosen_logprobs": chosen,
            "rejected_logprobs": rejected,
            "chosen_mask": chosen_mask,
            "rejected_mask": rejected_mask,
            "margins": torch.zeros(len(chosen)),
        }

    def of_pair(self, index: int) -> PairCase:
        """The case of one of its pairs alone."""
        rows = torch.tensor([index, index + len(self.ids) // 2])
        return PairCase(f"{self.name}[{index}]", self.logits[rows], self.ids[rows], self.mask[rows], self.ref[rows])


def pair_cases() -> list[PairCase]:
    """Short and long, masks with holes, one-token completions, one pair, policy = reference, gaps of thousands."""
    generator = torch.Generator().manual_seed(20)

    def case(name: str, pairs: int, tokens: int, spread: float = 1.5, drift: float = 2.0) -> PairCase:
        logits = spread * torch.randn((2 * pairs, tokens, VOCABULARY), generator=generator)
        ids = torch.randint(0, VOCABULARY, (2 * pairs, tokens), generator=generator)
        columns = torch.arange(tokens)
        start = torch.randint(0, max(1, tokens // 3), (2 * pairs, 1), generator=generator)
        end = tokens - torch.randint(0, max(1, tokens // 3), (2 * pairs, 1), generator=generator)
        mask = (columns >= start) & (columns < end)
        if name == "holes":
            mask &= torch.rand(mask.shape, generator=generator) > 0.4
        if name == "one token":
            mask = columns == start
        if name == "one token against many":
            mask[:pairs] = columns == start[:pairs]
        made = PairCase(name, logits, ids, mask, torch.zeros(2 * pairs))
        ref = made.logprobs.sum(1) + drift * torch.randn(2 * pairs, generator=generator)
        return PairCase(name, logits, ids, mask, ref)

    return [
        case("short", 4, 7),
        case("long", 3, 1024),
        case("holes", 4, 60),
        case("one token", 5, 6),
        case("one token against many", 2, 1024),
        case("one pair", 1, 12),
        case("policy = reference", 3, 20, drift=0.0),
        case("large gaps", 3, 200, spread=6.0, drift=2000.0),
    ]
