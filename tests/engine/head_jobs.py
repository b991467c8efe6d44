"""What rank processes run for critics, reward models and students: `python head_jobs.py JOB FOLDER RANK WORLD PORT`.

Not a test itself. Results are written into FOLDER, where the tests compare them with plain transformers.
"""

from __future__ import annotations

import os
from pathlib import Path

from oxrl_core.engine.environment import engine_environment

if __name__ == "__main__":  # before torch is imported
    os.environ.update(engine_environment(use_gpu=False))

import torch
from rank_jobs import STAGES, Job, accumulate, loss_sum, main, make_batch, make_config, make_rows

from oxrl_core.engine.policy import PolicyEngine
from oxrl_core.types import Distributions, ReferencedPairs, TokenBatch

HEADS = ("tokens+value", "value", "score")
KINDS = (*HEADS, "distill")


def kl_to_student(signals: Distributions) -> torch.Tensor:
    """KL(teacher || student) at temperature 2 with a weight for each target, so that no two tokens can be exchanged."""
    teacher = (signals.teacher_logits / 2).log_softmax(-1)
    student = (signals.logits / 2).log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1) * (signals.targets.float().sin() + 2)


def referenced_loss(signals: ReferencedPairs) -> torch.Tensor:
    """The gap, negated: a loss whose signals need a reference."""
    return -signals.gap


def value_sum(values: torch.Tensor) -> torch.Tensor:
    """A sum over columns with a weight of its own for each."""
    return (values * (torch.arange(values.shape[1]) + 1.0).cos()).sum()


def score_sum(scores: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    return (scores * (batch.input_ids[:, 0].float().sin() + 0.5)).sum()


def head_loss(engine: PolicyEngine, batch: TokenBatch, kind: str) -> torch.Tensor:
    if kind == "tokens+value":
        logprobs, entropy, values = engine.logprobs_and_values(batch, 0.7, with_entropy=True)
        return loss_sum(logprobs, entropy, batch) + value_sum(values)
    if kind == "value":
        return value_sum(engine.values(batch))
    if kind == "score":
        return score_sum(engine.scores(batch), batch)
    return engine.distill(batch, kl_to_student).sum()


def spare(rows: list[list[int]], extra: int = 1) -> TokenBatch:
    """A batch with padding columns after the longest row."""
    return make_batch(rows, max(len(row) for row in rows) + extra)


def step(engine: PolicyEngine, kind: str, number: int, *, micro_batches: int = 2, extra: int = 1) -> dict[str, float]:
    add_gradient(engine, kind, number, micro_batches=micro_batches, extra=extra)
    return engine.step()


def add_gradient(engine: PolicyEngine, kind: str, number: int, *, micro_batches: int, extra: int) -> None:
    rows = make_rows(number)
    mine = rows[engine.rank :: engine.world_size]
    size = len(mine) // micro_batches
    for start in range(0, len(mine), size):
        loss = head_loss(engine, spare(mine[start : start + size], extra), kind) / len(rows)
        engine.backward(loss, last=start + size >= len(mine))


def gradients(engine: PolicyEngine) -> dict[str, torch.Tensor]:
    from deepspeed.utils import safe_get_full_grad

    trained = {name: p for name, p in engine.policy.named_parameters() if p.requires_grad}
    return {name: safe_get_full_grad(parameter).clone() for name, parameter in trained.items()}


def whole_weights(engine: PolicyEngine) -> dict[str, torch.Tensor]:
    """Every parameter of the engine's model under its own name."""
    found = {}
    for name, parameter in engine.policy.named_parameters():
        with engine.gather([parameter]):
            found[name] = parameter.detach().clone()
    return found


class HeadJob(Job):
    def build(self, kind: str, stage: int, *, lora: bool = False, **options: object) -> PolicyEngine:
        if kind == "distill":
            return self.engine(make_config(stage, lora=lora), teacher_folder=self.folder / "teacher", **options)
        return self.engine(make_config(stage, lora=lora), head=kind, **options)

    def write(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        self.keep(name, tensors if self.rank == 0 else None)

    def one_step(self) -> None:
        """Gradients and weights of a step of every head on every stage; the split and the padding differ by stage."""
        for kind in KINDS:
            for stage in STAGES:
                engine = self.build(kind, stage)
                add_gradient(engine, kind, 0, micro_batches=1 + stage % 2, extra=1 + stage)
                name = f"{kind}-zero{stage}-world{self.world_size}"
                self.write(f"{name}.gradients", gradients(engine))
                self.results[name] = engine.step()
                self.write(f"{name}.weights", whole_weights(engine))

    def together(self) -> None:
        """A policy and its critic in one process: the same steps as each alone, saved in one checkpoint half-way."""
        for stage in STAGES:
            alone = self.build("value", stage, lr=3e-3)
            for number in range(4):
                step(alone, "value", number)
            self.write(f"alone-zero{stage}", whole_weights(alone))
            policy = self.build("tokens", stage, with_reference=True)
            critic = self.build("value", stage, lr=3e-3)
            for number in range(2):
                self._both(policy, critic, number)
                if number == 0:
                    policy.refresh_reference()
            policy.running = {"baseline": 0.1 + stage}
            folder = self.folder / f"both-zero{stage}"
            policy.save(folder)
            critic.save(folder / "critic")
            self.results[f"draw-zero{stage}"] = float(torch.rand(()))
            for number in range(2, 4):
                self._both(policy, critic, number)
            self._write_both("straight", stage, policy, critic)

    def together_resumed(self) -> None:
        """In new processes: load both, and the other two steps."""
        for stage in STAGES:
            torch.manual_seed(987)
            policy = self.build("tokens", stage, with_reference=True)
            critic = self.build("value", stage, lr=3e-3)
            policy.load(self.folder / f"both-zero{stage}")
            critic.load(self.folder / f"both-zero{stage}" / "critic")
            self.results[f"running-zero{stage}"] = policy.running
            self.results[f"draw-zero{stage}"] = float(torch.rand(()))
            for number in range(2, 4):
                self._both(policy, critic, number)
            self._write_both("resumed", stage, policy, critic)

    def _both(self, policy: PolicyEngine, critic: PolicyEngine, number: int) -> None:
        batch = make_batch(make_rows(number))
        with critic.no_grad():
            critic.values(batch)
        policy.reference_logprobs(batch, 1.0)
        accumulate(policy, make_rows(number), micro_batches=2, width=None)
        policy.step()
        step(critic, "value", number)

    def _write_both(self, name: str, stage: int, policy: PolicyEngine, critic: PolicyEngine) -> None:
        reference = policy.reference_logprobs(make_batch(make_rows()), 1.0)
        self.write(f"{name}-zero{stage}.policy", whole_weights(policy) | {"reference": reference})
        self.write(f"{name}-zero{stage}.critic", whole_weights(critic))

    def adapters(self) -> None:
        """With adapters on ZeRO 3: the refreshed reference, saved, loaded, and a reward model that is exported."""
        batch = make_batch(make_rows())
        policy = self.build("tokens+value", 3, lora=True, with_reference=True)
        seen = [policy.reference_logprobs(batch, 1.0)]
        step(policy, "tokens+value", 0)
        with policy.no_grad():
            seen.append(policy.logprobs(batch, 1.0)[0])
        policy.refresh_reference()
        seen.append(policy.reference_logprobs(batch, 1.0))
        step(policy, "tokens+value", 1)
        seen.append(policy.reference_logprobs(batch, 1.0))
        policy.save(self.folder / "adapters")
        again = self.build("tokens+value", 3, lora=True, with_reference=True)
        again.load(self.folder / "adapters")
        seen.append(again.reference_logprobs(batch, 1.0))
        self.write("adapters.reference", {str(index): value for index, value in enumerate(seen)})
        for lora in (False, True):
            scorer = self.build("score", 3, lora=lora)
            step(scorer, "score", 0)
            scorer.export_model(self.folder / f"scorer-{lora}")
            with scorer.no_grad():
                self.write(f"scorer-{lora}.scores", {"scores": scorer.scores(batch)})


def one(folder: Path, kind: str, stage: int = 2, *, lora: bool = False, **options: object) -> PolicyEngine:
    """The engine of a head on one rank, in this process."""
    return HeadJob(folder, rank=0, world_size=1).build(kind, stage, lora=lora, **options)


def with_config(folder: Path, *, algorithm: dict[str, object], **options: object) -> PolicyEngine:
    """As `one`, with a section `algorithm`."""
    config = make_config(2)
    config = type(config).model_validate({**config.model_dump(), "algorithm": algorithm})
    return PolicyEngine(config, folder / "model", rank=0, world_size=1, total_steps=10, **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(HeadJob)
