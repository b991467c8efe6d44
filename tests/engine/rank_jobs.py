"""What the rank processes of tests/engine run: `python rank_jobs.py JOB FOLDER RANK WORLD_SIZE PORT`.

Not a test itself. Results are written into FOLDER, where the tests compare them with plain torch.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from oxrl_core.engine.environment import engine_environment

if __name__ == "__main__":  # before torch is imported
    os.environ.update(engine_environment(use_gpu=False))

import torch
from safetensors.torch import save_file

from oxrl_core.config.schema import Config
from oxrl_core.engine.policy import PolicyEngine
from oxrl_core.types import TokenBatch

LENGTHS = (5, 12, 9, 3, 17, 8, 14, 6)
MODEL = "qwen2.5-0.5b-instruct"  # tied embeddings and biases: the harder case
STAGES = (0, 1, 2, 3)


def make_config(stage: int, *, lora: bool = False, precision: str = "float32", **train: object) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "ranks", "seed": 5, "call_timeout_seconds": 120},
            "model": {"path": "unused", "precision": precision, "lora": {"enabled": lora, "rank": 4, "alpha": 8}},
            "data": {"train": [{"name": "unused"}]},
            # eps: with a tiny one AdamW makes whole steps of the rounding of gradients that are zero
            "train": {
                "lr": 1e-2,
                "eps": 1e-4,
                "weight_decay": 0.1,
                "max_grad_norm": 0.5,
                "lr_schedule": "linear",
                **train,
            },
            "deepspeed": {"zero_stage": stage},
        }
    )


def make_rows(seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 320, (length,), generator=generator).tolist() for length in LENGTHS]


def make_batch(rows: list[list[int]], width: int | None = None) -> TokenBatch:
    """Right-padded rows; the first two tokens of each are its prompt."""
    width = width or max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    present = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        present[index, : len(row)] = True
    mask = present.clone()
    mask[:, :2] = False
    places = torch.arange(width).expand(len(rows), width) * present
    return TokenBatch(ids, present, places, mask, present.long())


def loss_sum(logprobs: torch.Tensor, entropy: torch.Tensor | None, batch: TokenBatch) -> torch.Tensor:
    """A sum over tokens with a weight of its own for each, so that no two tokens can be exchanged unseen."""
    weights = torch.sin(batch.input_ids.float()) + 0.5
    bonus = 0.0 if entropy is None else 0.1 * entropy
    return ((bonus - logprobs) * weights)[batch.completion_mask].sum()


def num_items(rows: list[list[int]]) -> int:
    return sum(len(row) - 2 for row in rows)


def accumulate(
    engine: PolicyEngine, rows: list[list[int]], *, micro_batches: int, width: int | None, empty_rounds: int = 0
) -> float:
    """The loss of this rank, after backward of its share of the rows in so many micro-batches."""
    mine = rows[engine.rank :: engine.world_size]
    size = len(mine) // micro_batches
    batches = [make_batch(mine[start : start + size], width) for start in range(0, len(mine), size)]
    empty = make_batch([[3, 4]])
    batches += [empty] * empty_rounds
    total = 0.0
    for index, batch in enumerate(batches):
        logprobs, entropy = engine.logprobs(batch, 0.7, with_entropy=True)
        loss = loss_sum(logprobs, entropy, batch) / num_items(rows)
        engine.backward(loss, last=index == len(batches) - 1)
        total += float(loss.detach())
    return total


def full_gradients(engine: PolicyEngine) -> dict[str, torch.Tensor]:
    from deepspeed.utils import safe_get_full_grad

    names = {name: p for name, p in engine.policy.base.named_parameters() if p.requires_grad}
    return {name: safe_get_full_grad(parameter).clone() for name, parameter in names.items()}


def sum_over_ranks(value: float) -> float:
    tensor = torch.tensor(value, dtype=torch.float64)
    torch.distributed.all_reduce(tensor)
    return float(tensor)


class Job:
    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        self.folder = folder
        self.rank = rank
        self.world_size = world_size
        self.results: dict[str, object] = {}

    def engine(self, config: Config, **options: object) -> PolicyEngine:
        return PolicyEngine(
            config,
            self.folder / "model",
            rank=self.rank,
            world_size=self.world_size,
            total_steps=10,
            **options,  # type: ignore[arg-type]  # keyword options of PolicyEngine
        )

    def keep(self, name: str, tensors: dict[str, torch.Tensor] | None) -> None:
        if self.rank == 0:
            assert tensors is not None
            save_file({key: value.contiguous() for key, value in tensors.items()}, self.folder / f"{name}.safetensors")
        else:
            assert tensors is None

    def gradients(self) -> None:
        """The same step in many splits: gradients before the update, weights and norm after it."""
        rows = make_rows()
        for stage, micro_batches, width in [
            *[(2, count, width) for count in (1, 2, 4) for width in (None, 32)],
            *[(stage, 2, None) for stage in (0, 1, 3)],
        ]:
            engine = self.engine(make_config(stage))
            # Rank 1 of 2 gets one empty round more: its rows are in one micro-batch less.
            if self.world_size == 2 and micro_batches == 2 and width is None and self.rank == 1:
                accumulate(engine, rows, micro_batches=1, width=width, empty_rounds=1)
            else:
                accumulate(engine, rows, micro_batches=micro_batches, width=width)
            name = f"world{self.world_size}-zero{stage}-micro{micro_batches}-{'padded' if width else 'tight'}"
            gradients = full_gradients(engine)
            self.keep(f"{name}.gradients", gradients if self.rank == 0 else None)
            self.results[name] = engine.step()
            self.keep(f"{name}.weights", engine.export_weights())

    def losses(self) -> None:
        """Three steps on every stage, with and without adapters."""
        for lora in (False, True):
            for stage in STAGES:
                engine = self.engine(make_config(stage, lora=lora))
                losses, norms = [], []
                for step in range(3):
                    losses.append(sum_over_ranks(accumulate(engine, make_rows(step), micro_batches=2, width=None)))
                    norms.append(engine.step()["grad_norm"])
                name = f"world{self.world_size}-zero{stage}-{'lora' if lora else 'full'}"
                self.results[name] = {"losses": losses, "norms": norms}
                self.keep(f"{name}.weights", engine.export_weights())

    def reference(self) -> None:
        """The reference stays where the policy began, with a model of its own and with adapters switched off."""
        batch = make_batch(make_rows())
        for stage, lora in ((2, False), (3, True)):
            engine = self.engine(make_config(stage, lora=lora), with_reference=True)
            before = engine.logprobs(batch, 1.0)[0].detach()
            start = engine.reference_logprobs(batch, 1.0)
            accumulate(engine, make_rows(), micro_batches=1, width=None)
            engine.step()
            after = engine.logprobs(batch, 1.0)[0].detach()
            end = engine.reference_logprobs(batch, 1.0)
            self.results[f"reference-zero{stage}"] = {
                "at_start": float((before - start).abs().max()),
                "moved_policy": float((after - before).abs().max()),
                "moved_reference": float((end - start).abs().max()),
                "needs_gradient": end.requires_grad,
            }

    def straight(self) -> None:
        """Four steps at once, and two steps followed by save, for every stage; the model is exported as well."""
        for stage in STAGES:
            engine = self.engine(make_config(stage))
            self._steps(engine, 0, 4)
            self.keep(f"straight-zero{stage}", engine.export_weights())
            engine = self.engine(make_config(stage))
            self._steps(engine, 0, 2)
            engine.save(self.folder / f"saved-zero{stage}")
            self.results[f"draw-zero{stage}"] = float(torch.rand(()))
        for lora in (False, True):
            engine = self.engine(make_config(3, lora=lora))
            self._steps(engine, 0, 2)
            engine.export_model(self.folder / f"exported-{lora}")
            batch = make_batch(make_rows())
            with engine.no_grad():
                logprobs = engine.logprobs(batch, 1.0)[0]
            self.keep(f"exported-{lora}.logprobs", {"logprobs": logprobs} if self.rank == 0 else None)

    def resumed(self) -> None:
        """In new processes: load, and the other two steps."""
        for stage in STAGES:
            torch.manual_seed(987)
            engine = self.engine(make_config(stage))
            engine.load(self.folder / f"saved-zero{stage}")
            self.results[f"draw-zero{stage}"] = float(torch.rand(()))
            self._steps(engine, 2, 4)
            self.keep(f"resumed-zero{stage}", engine.export_weights())

    def _steps(self, engine: PolicyEngine, start: int, end: int) -> None:
        for step in range(start, end):
            accumulate(engine, make_rows(step), micro_batches=2, width=None)
            engine.step()


def main(kind: type[Job] = Job) -> None:
    jobs, folder, rank, world_size, port = sys.argv[1:]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    job = kind(Path(folder), int(rank), int(world_size))
    for name in jobs.split(","):
        getattr(job, name)()
    (job.folder / f"results-{jobs}-world{world_size}-rank{rank}.json").write_text(json.dumps(job.results))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
