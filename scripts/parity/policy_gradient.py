"""Policy gradients against the GRPO and RLOO trainers of TRL 1.16, on crafted log-probs.

TRL computes in float64 and we in float32 from the same float32 numbers, so what is seen is our own rounding too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOTrainer

from oxrl_core.advantages import group_zscore
from oxrl_core.algorithms.base import check_params, get_algorithm
from oxrl_core.train.objective import Objective, count_items, regularizers, token_weights
from oxrl_core.types import Rollouts, TokenBatch
from scripts.parity.oracle import Loss, compare, trainer_of
from scripts.parity.result import Parity

PROMPT = 3  # masked columns before our completions; TRL sees the completions only
ROWS = 4
LENGTHS = (1, 9, 60, 1024)
CONSTANT_LENGTH = 1500
AGGREGATION_OF = {
    "grpo": "sequence",
    "bnpo": "token",
    "dapo": "token",
    "cispo": "token",
    "vespo": "token",
    "sapo": "sequence",
    "dr_grpo": "constant",
    "luspo": "sequence_sum",
}
KLS = ((0.0, "k3"), (0.04, "k3"), (0.04, "unbiased"))
SOFT = {
    name: field.default for name, field in GRPOConfig.__dataclass_fields__.items() if name[:5] in ("sapo_", "vespo")
}


@dataclass(frozen=True)
class RolloutCase:
    """Crafted completions of one prompt: tensors (B, T) float32 of completion columns, advantages (B,)."""

    logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    mask: Tensor
    advantages: Tensor


@dataclass(frozen=True)
class Twin:
    """One loss of ours and the settings at which TRL's should be the same."""

    name: str
    loss_type: str
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    level: str = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    delta: float | None = None
    drift: float = 0.3  # deviation of a token's log-ratio; of the whole row's where `product`
    product: bool = False

    @property
    def label(self) -> str:
        """What the table says of TRL's side."""
        words = [f"GRPOTrainer._compute_loss, loss_type {self.loss_type}"]
        if self.level != "token":
            words.append(f"ratio of the {self.level}")
        if self.delta is not None:
            words.append(f"delta {self.delta:g}")
        return ", ".join(words)


def rows() -> list[Parity]:
    """One row for each loss of drawn completions that TRL has too."""
    even = {"clip_low": 0.2, "clip_high": 0.2}
    gspo = {"clip_low": 3e-4, "clip_high": 4e-4}
    luspo = {"clip_low": 2e-3, "clip_high": 2.5e-3}
    twins = [
        *(Twin("sgrpo", loss_type, even) for loss_type in ("dapo", "bnpo", "grpo", "dr_grpo", "luspo")),
        Twin("sgrpo", "dapo", {**even, "ratio_cap": 1.5}, delta=1.5),
        Twin("sgrpo", "dapo", {**even, "ratio": "sequence"}, level="sequence"),
        Twin("dapo", "dapo", clip_high=0.28),
        Twin("dr_grpo", "dr_grpo"),
        Twin("gspo", "grpo", level="sequence", drift=0.01, **gspo),
        Twin("luspo", "luspo", level="sequence", drift=0.05, **luspo),
        Twin("cispo", "cispo", clip_high=5.0, drift=0.8),
        Twin("cispo", "cispo", {"ratio_cap": 1.05, "ratio": "sequence"}, level="sequence", clip_high=1.05),
        Twin("sapo", "sapo"),
        Twin("vespo", "vespo", product=True),
    ]
    return [
        *(compare(twin.name, twin.label, twin_cases(twin)) for twin in twins),
        compare("rloo", "RLOOTrainer._compute_loss", rloo_cases()),
    ]


def rollout_cases(*, drift: float = 0.3, product: bool = False) -> Iterator[RolloutCase]:
    """Short and long, with and without holes, rewards that differ and that do not, on-policy and off-policy."""
    for length in LENGTHS:
        for seed, (holes, equal_rewards) in enumerate(((False, False), (False, True), (True, False), (True, True))):
            for scale in (0.0, 1.0, 3.0):
                generator = torch.Generator().manual_seed(10 * length + seed)
                deviation = scale * drift / (length**0.5 if product else 1)
                yield rollout_case(generator, length, holes, equal_rewards, deviation)


def rollout_case(
    generator: torch.Generator, length: int, holes: bool, equal_rewards: bool, deviation: float
) -> RolloutCase:
    """Rows of `length`, of two lengths between, and of one token."""
    middle = torch.randint(1, length + 1, (ROWS - 2,), generator=generator).tolist()
    mask = torch.arange(length) < torch.tensor([length, *middle, 1])[:, None]
    if holes:
        mask &= torch.rand((ROWS, length), generator=generator) > 0.3
        mask[:, 0] = True
    noise = [torch.randn((ROWS, length), generator=generator) for _ in range(3)]
    old_logprobs = -2 * noise[0].abs() - 0.01
    rewards = [0.7] * ROWS if equal_rewards else torch.rand(ROWS, generator=generator).tolist()
    return RolloutCase(
        logprobs=old_logprobs + deviation * noise[1],
        old_logprobs=old_logprobs,
        ref_logprobs=old_logprobs + noise[2],
        mask=mask,
        advantages=torch.tensor(group_zscore(rewards)),
    )


def twin_cases(twin: Twin) -> Iterator[tuple[Tensor, Loss, Loss]]:
    """Every case, without KL, with k3, and with k3 weighed by the ratio."""
    for case in rollout_cases(drift=twin.drift, product=twin.product):
        for kl_coef, estimator in KLS:
            if estimator == "unbiased" and twin.level != "token":
                continue  # TRL weighs a token's KL with the ratio of the whole completion there; we, with its own
            objective = objective_of(twin.name, twin.params, AGGREGATION_OF[twin.loss_type], kl_coef, estimator)
            trainer = grpo_trainer(twin, kl_coef, estimator)
            yield case.logprobs, our_loss(case, objective), trl_loss(trainer, case)


def rloo_cases() -> Iterator[tuple[Tensor, Loss, Loss]]:
    """Every case at ratios of the whole completion around 1."""
    objective = objective_of("rloo", {}, "sequence")
    trainer = trainer_of(RLOOTrainer, epsilon_low=0.2, epsilon_high=0.2)
    for case in rollout_cases(product=True):
        yield case.logprobs, our_loss(case, objective), trl_loss(trainer, case)


def objective_of(
    name: str, params: dict[str, Any], aggregation: str, kl_coef: float = 0.0, kl_estimator: str = "k3"
) -> Objective:
    """Our loss with the switches around it."""
    algorithm = get_algorithm(name)
    return Objective(
        algorithm=algorithm,
        params=check_params(algorithm, params),
        aggregation=aggregation,
        constant_length=CONSTANT_LENGTH,
        kl_coef=kl_coef,
        kl_estimator=kl_estimator,
    )


def our_loss(case: RolloutCase, objective: Objective) -> Loss:
    """The loss of a step of ours, weighed and reduced as train_step does, behind a prompt that counts for nothing."""
    mask = behind_prompt(case.mask)
    ones = torch.ones(mask.shape, dtype=torch.long)
    batch = TokenBatch(ones, ones.bool(), ones.cumsum(1) - 1, completion_mask=mask, segment_ids=ones)

    def loss(logprobs: Tensor) -> Tensor:
        signals = Rollouts(
            logprobs=behind_prompt(logprobs),
            completion_mask=mask,
            advantages=case.advantages[:, None].expand(mask.shape),
            old_logprobs=behind_prompt(case.old_logprobs),
            ref_logprobs=behind_prompt(case.ref_logprobs),
        )
        values = objective.algorithm.loss(signals, **objective.params) + regularizers(signals, objective)
        return (values[mask] * token_weights(batch, objective)[mask]).sum() / count_items(batch, objective)

    return loss


def behind_prompt(columns: Tensor) -> Tensor:
    """(B, T) columns with those of a prompt before them: zeros, or False."""
    return torch.cat([torch.zeros(len(columns), PROMPT, dtype=columns.dtype), columns], dim=1)


def grpo_trainer(twin: Twin, kl_coef: float, kl_estimator: str) -> GRPOTrainer:
    """TRL's trainer with what its loss reads."""
    clip_low, clip_high = (twin.params.get(name, getattr(twin, name)) for name in ("clip_low", "clip_high"))
    args = {"delta": twin.delta, "use_bias_correction_kl": kl_estimator == "unbiased", "steps_per_generation": 1}
    return trainer_of(
        GRPOTrainer,
        args=SimpleNamespace(**SOFT, **args),
        loss_type=twin.loss_type,
        importance_sampling_level=twin.level,
        epsilon_low=clip_low,
        epsilon_high=clip_high,
        beta=kl_coef,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        max_completion_length=CONSTANT_LENGTH,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
    )


def trl_loss(trainer: Any, case: RolloutCase) -> Loss:
    """What a trainer of TRL makes of log-probs that stand in the place of a model's."""
    trainer.accelerator.reduce = lambda tensor, reduction: tensor
    ids = torch.zeros(case.mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": case.mask.int(),  # holes included: TRL multiplies it with its tool mask first of all
        "advantages": case.advantages.double(),
        "old_per_token_logps": case.old_logprobs.double(),
        "old_logps": (case.old_logprobs.double() * case.mask).sum(1),
        "ref_per_token_logps": case.ref_logprobs.double(),
        "num_items_in_batch": case.mask.sum(),
    }

    def loss(logprobs: Tensor) -> Tensor:
        said = logprobs.double()
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (said, torch.zeros_like(said), None)
        return trainer._compute_loss(None, inputs)

    return loss
