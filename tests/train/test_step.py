"""One update against arithmetic by hand and against itself, cut differently."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from oxrl_core.algorithms.base import describe, get_algorithm
from oxrl_core.errors import ConfigError, NumericsError
from oxrl_core.train.objective import Objective, kl_per_token, mismatch_weights, token_weights
from oxrl_core.train.step import evaluate_step, train_step
from oxrl_core.types import (
    Labeled,
    LabeledBatch,
    PairBatch,
    ReferencedPairs,
    RolloutBatch,
    Rollouts,
    ScoredPairs,
    StepPairs,
    TokenBatch,
    Tokens,
)

VOCABULARY = 7


class PlainPolicy:
    """The interface of PolicyEngine in plain autograd: a bigram model, one rank, no optimizer step."""

    device = torch.device("cpu")
    world_size, rank = 1, 0

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Embedding(VOCABULARY, 5), nn.Linear(5, VOCABULARY)).double()
        self.num_steps = 0
        self.running = {}
        self.value_head = nn.Embedding(VOCABULARY, 1).double()

    def reference_logprobs(self, batch, temperature):
        return torch.full(batch.input_ids.shape, -1.5, dtype=torch.float64)

    def scores(self, batch):
        last = batch.attention_mask.sum(1) - 1
        return self.value_head(batch.input_ids)[torch.arange(len(last)), last, 0]

    def values(self, batch):
        return self.value_head(batch.input_ids)[..., 0].roll(1, dims=1)

    def logprobs_and_values(self, batch, temperature, with_entropy=False):
        return *self.logprobs(batch, temperature, with_entropy), self.values(batch)

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
        return [*self.model.parameters(), *self.value_head.parameters()]


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


@pytest.mark.parametrize("aggregation", ["token", "sequence", "sequence_sum", "constant"])
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
    [
        ("token", (3 * 1 + 5) / 4),
        ("sequence", (1 + 5) / 2),
        ("sequence_sum", (3 + 5) / 2),
        ("constant", (3 * 1 + 5) / (2 * 10)),
    ],
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


@pytest.mark.parametrize("estimator", ["k2", "k3", "unbiased"])
@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_what_a_reference_says_under_the_mask_stays_there(estimator, garbage):
    def gradient(outside):
        policy = PlainPolicy()
        batch = rollouts(*EXAMPLES, advantages=ADVANTAGES)
        batch.ref_logprobs = torch.where(batch.completion_mask, -1.5, outside)
        train_step(policy, sgrpo(kl_coef=0.5, kl_estimator=estimator), [batch])
        return policy.gradient()

    assert torch.equal(gradient(garbage), gradient(0.0))


def test_a_loss_that_is_not_finite_ends_the_step_before_the_optimizer():
    def broken(tokens: Tokens):
        return tokens.logprobs * math.nan

    policy = PlainPolicy()
    with pytest.raises(NumericsError, match="broken is nan"):
        train_step(policy, Objective(describe("broken", broken)), [rows(*EXAMPLES)])
    assert policy.num_steps == 0


def test_a_loss_without_gradient_is_refused_by_name():
    def cut_off(tokens: Tokens):
        return -tokens.logprobs.detach()

    policy = PlainPolicy()
    objective = Objective(describe("cut_off", cut_off))
    with pytest.raises(ConfigError, match="the loss of cut_off has no gradient"):
        train_step(policy, objective, [rows(*EXAMPLES)])
    assert policy.num_steps == 0
    assert evaluate_step(policy, objective, [rows(*EXAMPLES)])["loss"] > 0


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
            for parameter in policy.model.parameters():
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


def pairs(*examples: tuple[tuple[list[int], int], tuple[list[int], int]], pad_to: int = 0) -> PairBatch:
    """(chosen, rejected), each as (token ids, number of prompt tokens)."""
    batch = rows(*(chosen for chosen, _ in examples), *(rejected for _, rejected in examples), pad_to=pad_to)
    return PairBatch(**vars(batch), margins=torch.zeros(len(examples)))


PAIRS = [
    (([1, 2, 3, 4], 2), ([1, 2, 5], 2)),
    (([2, 6], 1), ([2, 1, 1, 3], 1)),
    (([5, 5, 4], 2), ([5, 5, 3], 2)),
    (([3, 1, 2, 2], 1), ([3, 4], 1)),
]


def compares_with_the_step(pairs: StepPairs):
    """A loss whose value depends on every pair of the step, and on where its own stand."""
    own = pairs.step_gap[pairs.index]
    assert torch.allclose(own, pairs.gap.detach().float(), atol=1e-5), "the index points at these very pairs"
    return (pairs.gap - pairs.step_gap.mean()) ** 2 * (1 + pairs.step_gap.std())


@pytest.mark.parametrize("cut", [[[0, 1], [2, 3]], [[0], [1], [2], [3]], [[2, 0, 3], [1]]])
@pytest.mark.parametrize("loss", [compares_with_the_step, "dpo", "simpo"])
def test_the_gradient_of_pairs_does_not_depend_on_how_a_step_is_cut_or_padded(cut, loss):
    algorithm = get_algorithm(loss) if isinstance(loss, str) else describe("own", loss)
    objective = Objective(algorithm, dict(algorithm.params))
    whole, parts = PlainPolicy(), PlainPolicy()
    one = train_step(whole, objective, [pairs(*PAIRS)])
    many = train_step(parts, objective, [pairs(*(PAIRS[i] for i in group), pad_to=9) for group in cut])
    torch.testing.assert_close(parts.gradient(), whole.gradient(), rtol=1e-5, atol=1e-7)
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert many["preference/accuracy"] == one["preference/accuracy"]


def test_a_pair_loss_is_the_mean_over_pairs_and_its_metrics_are_log_ratios_by_hand():
    def gap(pairs: ReferencedPairs):
        return -pairs.gap

    policy = PlainPolicy()
    batch = pairs(*PAIRS[:2])
    logprobs = policy.logprobs(batch, 1.0)[0].detach()
    sums = (logprobs * batch.completion_mask).sum(1) + 1.5 * batch.completion_mask.sum(1)  # the reference says -1.5
    metrics = train_step(policy, Objective(describe("gap", gap)), [batch])
    margins = (sums[:2] - sums[2:]).tolist()
    assert metrics["loss"] == pytest.approx(-sum(margins) / 2)
    assert metrics["preference/margin"] == pytest.approx(sum(margins) / 2)
    assert metrics["preference/chosen"] == pytest.approx(float(sums[:2].mean()))
    assert metrics["preference/accuracy"] == sum(margin > 0 for margin in margins) / 2


def counts_steps(step: StepPairs, before, params):
    return {"steps": before.get("steps", 0.0) + 1, "mean": float(step.step_gap.mean())}


def test_what_a_loss_remembers_moves_with_training_and_never_with_evaluation():
    def remembers(pairs: StepPairs):
        return pairs.gap * pairs.running["steps"]

    policy = PlainPolicy()
    objective = Objective(describe("remembers", remembers, running=counts_steps))
    first = train_step(policy, objective, [pairs(*PAIRS[:2]), pairs(*PAIRS[2:])])
    assert policy.running["steps"] == 1
    assert policy.running["mean"] == pytest.approx(first["preference/margin"], rel=1e-5)
    evaluate_step(policy, objective, [pairs(*PAIRS)])
    assert policy.running["steps"] == 1
    assert policy.num_steps == 1


@pytest.mark.parametrize("cut", [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[3], [1, 0], [2]]])
def test_labeled_examples_see_the_mismatched_ones_of_the_whole_step_without_gradient(cut):
    def centred(labeled: Labeled):
        assert not labeled.step_mismatched.requires_grad
        return (labeled.logratio - labeled.step_mismatched.mean()) * (2.0 * labeled.is_desirable - 1)

    def batch_of(group):
        batch = pairs(*(PAIRS[i] for i in group))
        names = ("input_ids", "attention_mask", "position_ids", "completion_mask", "segment_ids")
        labels = torch.tensor([i % 2 == 0 for i in group])
        return LabeledBatch(**{name: getattr(batch, name) for name in names}, is_desirable=labels)

    policy = PlainPolicy()
    metrics = train_step(policy, Objective(describe("centred", centred)), [batch_of(group) for group in cut])
    plain = PlainPolicy()
    batch = batch_of([0, 1, 2, 3])
    sums = (plain.logprobs(batch, 1.0)[0] * batch.completion_mask).sum(1) + 1.5 * batch.completion_mask.sum(1)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    expected = ((sums[:4] - sums[4:].mean().detach()) * signs).mean()
    expected.backward()
    torch.testing.assert_close(policy.gradient(), plain.gradient(), rtol=1e-5, atol=1e-7)
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["num_tokens"] == sum(len(PAIRS[i][0][0]) - PAIRS[i][0][1] for i in range(4))


def test_a_reward_models_pairs_are_scored_row_by_row():
    def apart(pairs: ScoredPairs):
        return pairs.rejected_score - pairs.chosen_score

    policy = PlainPolicy()
    metrics = train_step(policy, Objective(describe("apart", apart)), [pairs(*PAIRS[:2]), pairs(*PAIRS[2:])])
    value = policy.value_head.weight.detach()[:, 0]
    chosen, rejected = value[[4, 6, 4, 2]], value[[5, 3, 3, 4]]  # the last tokens
    assert metrics["loss"] == pytest.approx(float((rejected - chosen).mean()))
    assert metrics["preference/accuracy"] == float((chosen > rejected).double().mean())


def test_evaluation_gives_the_loss_of_training_and_leaves_no_gradient():
    policy, trained = PlainPolicy(), PlainPolicy()
    batches = [rows(*EXAMPLES)]
    measured = evaluate_step(policy, Objective(get_algorithm("sft")), batches)
    assert measured["loss"] == pytest.approx(train_step(trained, Objective(get_algorithm("sft")), batches)["loss"])
    assert all(parameter.grad is None for parameter in policy.parameters)


def test_a_shared_critic_learns_beside_the_policy_and_only_on_completion_tokens():
    policy = PlainPolicy()
    batch = rollouts(([1, 2, 3], 1), advantages=[0.0])
    batch.old_values = torch.zeros(1, 3)
    batch.returns = torch.tensor([[9.0, 1.0, -1.0]])
    value = policy.value_head.weight.detach()[:, 0].clone()
    # Far from clipping: values may move by 100.
    metrics = train_step(policy, sgrpo(value_coef=0.5, value_clip=100.0), [batch])
    residual = [float(value[1] - 1.0), float(value[2] + 1.0)]  # the value at a token is that of the state before it
    assert metrics["loss"] == pytest.approx(0.5 * (residual[0] ** 2 + residual[1] ** 2) / 2 / 2)
    gradient = policy.value_head.weight.grad[:, 0]
    assert gradient[1] == pytest.approx(0.5 * residual[0] / 2)
    assert gradient[2] == pytest.approx(0.5 * residual[1] / 2)
    assert gradient[[0, 3, 4, 5, 6]].tolist() == [0.0] * 5


def mismatch(mode: str, level: str) -> list[float]:
    """Weights of a completion of three tokens at which trainer / sampler is 3, 1/4 and 1; the prompt is at 1000."""
    mask = torch.tensor([[False, True, True, True]])
    signals = Rollouts(
        logprobs=torch.zeros(1, 4),
        completion_mask=mask,
        advantages=torch.zeros(1, 4),
        old_logprobs=torch.tensor([[7.0, math.log(3), -math.log(4), 0.0]]),
        rollout_logprobs=torch.zeros(1, 4),
    )
    objective = sgrpo(mismatch=mode, mismatch_level=level, mismatch_low=0.5, mismatch_high=2.0)
    return mismatch_weights(signals, objective)[mask].tolist()


@pytest.mark.parametrize(
    ("mode", "level", "expected"),
    [
        ("tis", "token", [2.0, 0.25, 1.0]),
        ("icepop", "token", [0.0, 0.0, 1.0]),
        ("mis", "token", [0.0, 0.25, 1.0]),
        ("tis", "sequence", [0.75] * 3),  # 3 x 1/4 x 1
        ("icepop", "sequence", [0.75] * 3),
        ("mis", "sequence", [0.75] * 3),
    ],
)
def test_corrections_of_the_mismatch_by_hand(mode, level, expected):
    assert mismatch(mode, level) == pytest.approx(expected)


def test_the_unbiased_estimator_has_the_gradient_of_the_true_kl():
    """Over all tokens of a small vocabulary the expectation is exact: sum of p x d(ratio x k3)."""
    torch.manual_seed(0)
    scores, reference = torch.randn(5, requires_grad=True), torch.randn(5).log_softmax(0)
    logprobs = scores.log_softmax(0)
    true = (logprobs.exp() * (logprobs - reference)).sum()
    (expected,) = torch.autograd.grad(true, scores, retain_graph=True)
    weights = logprobs.detach().exp()
    for estimator, is_right in [("unbiased", True), ("k2", True), ("k3", False), ("k1", False)]:
        sampled = kl_per_token(logprobs, reference, estimator, logprobs.detach())
        (gradient,) = torch.autograd.grad((weights * sampled).sum(), scores, retain_graph=True)
        assert torch.allclose(gradient, expected, atol=1e-6) == is_right, estimator
