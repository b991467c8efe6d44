"""One update against arithmetic by hand and against itself, cut differently."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from oxrl_core.algorithms.base import describe, get_algorithm
from oxrl_core.errors import NumericsError
from oxrl_core.train.step import Objective, kl_per_token, token_weights, train_step
from oxrl_core.types import RolloutBatch, TokenBatch, Tokens

VOCABULARY = 7


class PlainPolicy:
    """The interface of PolicyEngine in plain autograd: a bigram model, one rank, no optimizer step."""

    device = torch.device("cpu")
    world_size = 1

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Embedding(VOCABULARY, 5), nn.Linear(5, VOCABULARY)).double()
        self.num_steps = 0

    def logprobs(self, batch, temperature, with_entropy=False):
        scores = (self.model(batch.input_ids) / temperature).log_softmax(-1)  # (B, T, V): about the next token
        shifted = torch.cat([torch.zeros_like(scores[:, :1]), scores[:, :-1]], dim=1)
        starts = torch.cat([torch.ones_like(batch.segment_ids[:, :1]), batch.segment_ids.diff(dim=1)], dim=1) != 0
        chosen = shifted.gather(-1, batch.input_ids[..., None])[..., 0].masked_fill(starts, 0.0)
        return chosen, -(shifted.exp() * shifted).sum(-1) if with_entropy else None

    def no_grad(self):
        return torch.no_grad()

    def backward(self, loss, last):
        loss.backward()

    def step(self):
        self.num_steps += 1
        return {"lr": 1.0}

    def gradient(self):
        return torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in self.parameters])

    @property
    def parameters(self):
        return list(self.model.parameters())


def rows(*examples: tuple[list[int], int], pad_to: int = 0) -> TokenBatch:
    """Right-padded rows of (token ids, number of prompt tokens)."""
    width = max(pad_to, *(len(ids) for ids, _ in examples))
    ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in examples])
    columns = torch.arange(width)[None]
    lengths = torch.tensor([[len(tokens)] for tokens, _ in examples])
    prompts = torch.tensor([[prompt] for _, prompt in examples])
    inside = columns < lengths
    return TokenBatch(ids, inside, columns.expand_as(ids), inside & (columns >= prompts), inside.long())


def rollouts(*examples: tuple[list[int], int], advantages: list[float], pad_to: int = 0) -> RolloutBatch:
    batch = rows(*examples, pad_to=pad_to)
    values = torch.tensor(advantages)[:, None] * batch.completion_mask
    return RolloutBatch(**vars(batch), advantages=values, rollout_logprobs=torch.zeros_like(values))


EXAMPLES = [([1, 2, 3, 4, 5], 2), ([2, 6, 1], 1), ([5, 5, 4, 3, 2, 1, 6], 3), ([3, 1], 1)]
ADVANTAGES = [1.0, -0.5, 2.0, -1.5]


def sgrpo(**switches) -> Objective:
    return Objective(get_algorithm("sgrpo"), params={"clip_low": 0.2, "clip_high": 0.2}, **switches)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
@pytest.mark.parametrize("cut", [[[0, 1], [2, 3]], [[0], [1], [2], [3]], [[2, 0, 3], [1]]])
@pytest.mark.parametrize("pad_to", [0, 12])
def test_the_gradient_does_not_depend_on_how_a_step_is_cut_or_padded(aggregation, cut, pad_to):
    objective = sgrpo(aggregation=aggregation, constant_length=5, entropy_coef=0.1)
    whole, parts = PlainPolicy(), PlainPolicy()
    one = train_step(whole, objective, [rollouts(*EXAMPLES, advantages=ADVANTAGES)])
    batches = [
        rollouts(*(EXAMPLES[i] for i in group), advantages=[ADVANTAGES[i] for i in group], pad_to=pad_to)
        for group in cut
    ]
    many = train_step(parts, objective, batches)
    torch.testing.assert_close(parts.gradient(), whole.gradient(), rtol=1e-6, atol=1e-7)
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert many["num_tokens"] == one["num_tokens"] == 3 + 2 + 4 + 1
    assert parts.num_steps == 1


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    # values: 1 on the three tokens of the first row, 5 on the one token of the second
    [("token", (3 * 1 + 5) / 4), ("sequence", (1 + 5) / 2), ("constant", (3 * 1 + 5) / (2 * 10))],
)
def test_aggregations_by_hand(aggregation, expected):
    def given(tokens: Tokens):
        return torch.tensor([[9.0, 1.0, 1.0, 1.0], [9.0, 5.0, 9.0, 9.0]]) + 0 * tokens.logprobs

    objective = Objective(describe("given", given), aggregation=aggregation, constant_length=10)
    metrics = train_step(PlainPolicy(), objective, [rows(([1, 2, 3, 4], 1), ([5, 6], 1))])
    assert metrics["loss"] == pytest.approx(expected)


def test_packed_examples_weigh_as_if_each_had_a_row_of_its_own():
    packed = TokenBatch(
        input_ids=torch.tensor([[1, 2, 3, 4, 5, 6, 0]]),
        attention_mask=torch.tensor([[True] * 6 + [False]]),
        position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 0]]),
        completion_mask=torch.tensor([[False, True, True, True, False, True, False]]),
        segment_ids=torch.tensor([[1, 1, 1, 1, 2, 2, 0]]),
    )
    objective = Objective(get_algorithm("sft"), aggregation="sequence")
    assert token_weights(packed, objective)[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0, 1, 0])
    together, apart = PlainPolicy(), PlainPolicy()
    train_step(together, objective, [packed])
    train_step(apart, objective, [rows(([1, 2, 3, 4], 1), ([5, 6], 1))])
    torch.testing.assert_close(together.gradient(), apart.gradient())


def test_on_policy_gradient_is_reinforce_with_the_advantage_on_every_token():
    policy, reference = PlainPolicy(), PlainPolicy()
    batch = rollouts(*EXAMPLES, advantages=ADVANTAGES)
    metrics = train_step(policy, sgrpo(), [batch])
    logprobs, _ = reference.logprobs(batch, 1.0)
    (-(logprobs * batch.advantages).sum() / batch.num_tokens).backward()
    torch.testing.assert_close(policy.gradient(), reference.gradient())
    # The ratio is 1 everywhere: the loss says nothing but minus the mean advantage, the gradient does.
    assert metrics["loss"] == pytest.approx(-float(batch.advantages.sum()) / batch.num_tokens)
    assert metrics["ratio/clipped"] == 0
    torch.testing.assert_close(batch.old_logprobs, logprobs.detach())


def test_what_is_infinite_under_the_mask_stays_there():
    def infinite_outside(tokens: Tokens):
        return -tokens.logprobs + torch.where(tokens.completion_mask, 0.0, math.inf)

    policy, plain = PlainPolicy(), PlainPolicy()
    train_step(policy, Objective(describe("infinite_outside", infinite_outside)), [rows(*EXAMPLES)])
    train_step(plain, Objective(get_algorithm("sft")), [rows(*EXAMPLES)])
    torch.testing.assert_close(policy.gradient(), plain.gradient())


def test_a_loss_that_is_not_finite_ends_the_step_before_the_optimizer():
    def broken(tokens: Tokens):
        return tokens.logprobs * math.nan

    policy = PlainPolicy()
    with pytest.raises(NumericsError, match="broken is nan"):
        train_step(policy, Objective(describe("broken", broken)), [rows(*EXAMPLES)])
    assert policy.num_steps == 0


def test_a_step_with_nothing_to_train_on_changes_nothing_and_says_so():
    policy = PlainPolicy()
    assert train_step(policy, Objective(get_algorithm("sft")), [rows(([1, 2], 2))]) == {"skipped": 1.0}
    assert train_step(policy, Objective(get_algorithm("sft")), []) == {"skipped": 1.0}
    assert policy.num_steps == 0


def test_kl_estimators_by_hand():
    logprobs, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])  # d = -0.5, 1
    assert kl_per_token(logprobs, reference, "k1").tolist() == [0.5, -1.0]
    assert kl_per_token(logprobs, reference, "k2").tolist() == [0.125, 0.5]
    assert kl_per_token(logprobs, reference, "k3").tolist() == pytest.approx([math.exp(-0.5) - 0.5, math.e - 2])


def test_kl_and_entropy_pull_the_way_their_names_say():
    def towards(objective, reference_logprob):
        policy = PlainPolicy()
        policy.reference_logprobs = lambda batch, temperature: torch.full(batch.input_ids.shape, reference_logprob)
        batch = rollouts(*EXAMPLES, advantages=[0.0] * 4)
        train_step(policy, objective, [batch])
        before, entropy_before = policy.logprobs(batch, 1.0, with_entropy=True)
        with torch.no_grad():
            for parameter in policy.parameters:
                parameter -= 0.1 * parameter.grad
        after, entropy_after = policy.logprobs(batch, 1.0, with_entropy=True)
        mask = batch.completion_mask
        return (after - before)[mask].mean().item(), (entropy_after - entropy_before)[mask].mean().item()

    likelier, _ = towards(sgrpo(kl_coef=1.0), 0.0)  # the reference gives these tokens probability 1
    assert likelier > 0
    _, more_entropy = towards(sgrpo(entropy_coef=1.0), 0.0)
    assert more_entropy > 0


def test_the_gap_between_trainer_and_sampler_is_measured_on_completion_tokens_alone():
    policy = PlainPolicy()
    batch = rollouts(*EXAMPLES, advantages=ADVANTAGES)
    said = policy.logprobs(batch, 1.0)[0].detach()
    batch.rollout_logprobs = torch.where(batch.completion_mask, said, torch.full_like(said, 99.0))
    batch.rollout_logprobs[0, 3] += 0.5
    metrics = train_step(policy, sgrpo(), [batch])
    assert metrics["gap/max"] == pytest.approx(0.5)
    assert metrics["gap/mean"] == pytest.approx(0.5 / 10)
