"""The first way of training a model that fits into the GPUs at hand, or the numbers that say why none does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from oxrl_core.config.shape import Shape
from oxrl_core.config.yaml_text import read_mapping
from swarm.scout.memory import Ask, Layout, plan_memory
from swarm.scout.views import MemoryView

BILLION = 1e9


@dataclass(frozen=True)
class Wish:
    """What is to be trained."""

    gpus: int
    gpu_memory_gib: float
    draws: bool  # whether completions are drawn (RL)
    prompt_tokens: int
    completion_tokens: int  # 0 where none are drawn: then prompt_tokens is a whole example
    group_size: int = 8
    compares: bool = False  # with a frozen reference
    has_critic: bool = False
    teacher_parameters: int = 0
    scorer_parameters: int = 0

    @property
    def row_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Plan:
    """A way of training, its memory and its reasons."""

    ask: Ask
    memory: MemoryView
    wish: Wish  # with the lengths that fit
    rung: str
    method_why: str
    rung_why: str
    layout_why: str

    @property
    def fits(self) -> bool:
        return self.memory.fits


@lru_cache
def ladder() -> dict[str, Any]:
    """The ways to train, as data."""
    path = Path(__file__).with_name("ladder.yaml")
    return read_mapping(path.read_text(encoding="utf-8"), path.name).mapping


def plan_training(shape: Shape, wish: Wish) -> Plan:
    """The first way that fits; where none does, the last one tried, whose memory says what is missing."""
    if not wish.gpus:
        return _on_cpu(shape, wish)
    rules = ladder()
    parameters_b = shape.parameters / BILLION
    numbers = {"parameters_b": parameters_b, "full_below": rules["full_below"], "refused": ""}
    methods = [("lora", rules["lora_rank"])]
    if parameters_b < rules["full_below"]:
        methods.insert(0, ("full", 0))
    refused: Plan | None = None
    for method, rank in methods:
        for lengths in _lengths(wish):
            for layout, ask in _layouts(shape, lengths, rank):
                for plan in _rungs(shape, lengths, ask, layout, method, numbers):
                    if plan.fits:
                        return plan
                    refused = plan
        numbers["refused"] = refused.memory.why if refused else ""
    assert refused is not None  # there is always a rung to try
    return replace(refused, method_why=rules["why"]["refused"].format(**numbers))


def _lengths(wish: Wish) -> Iterator[Wish]:
    """The wish, and the same with rows half as long, as long as those make sense."""
    rules = ladder()
    yield wish
    while wish.prompt_tokens // 2 >= rules["least_prompt_tokens"]:
        completion = wish.completion_tokens // 2
        if wish.draws and completion < rules["least_completion_tokens"]:
            return
        wish = replace(wish, prompt_tokens=wish.prompt_tokens // 2, completion_tokens=completion)
        yield wish


def _layouts(shape: Shape, wish: Wish, rank: int) -> Iterator[tuple[str, Ask]]:
    """How learner and sampler share the GPUs, with the reason: in turns, else each with GPUs of its own."""
    common = Ask(
        gpus=wish.gpus,
        gpu_memory_gib=wish.gpu_memory_gib,
        ranks=wish.gpus,
        lora_rank=rank,
        has_reference=wish.compares,
        row_tokens=wish.row_tokens,
        group_size=wish.group_size,
        has_critic=wish.has_critic,
        teacher_parameters=wish.teacher_parameters,
        scorer_parameters=wish.scorer_parameters,
    )
    if not wish.draws:
        yield f"{wish.gpus} training rank(s), one on each GPU", common
        return
    why = "learner and sampler take turns on every GPU, so that none waits idle"
    yield why, replace(common, layout="colocated")
    for tensor_parallel in (1, 2, 4, 8):
        # Half of the GPUs draw; what they split must be divisible.
        divides = shape.heads % tensor_parallel == 0
        half = wish.gpus // 2
        if half and half % tensor_parallel == 0 and divides:
            layout: Layout = "apart"
            why = f"beside the learner the sampler does not fit: half of the GPUs draw, {tensor_parallel} to a copy"
            yield why, replace(common, layout=layout, ranks=wish.gpus - half, tensor_parallel=tensor_parallel)


def _rungs(shape: Shape, wish: Wish, ask: Ask, layout_why: str, method: str, numbers: dict[str, Any]) -> Iterator[Plan]:
    rules = ladder()
    allowed = {"ranks": ask.ranks > 1, "text": not shape.is_multimodal, "full": ask.lora_rank == 0}
    instead = method == "lora" and numbers["refused"]
    method_why = str(rules["why"]["lora_instead" if instead else method]).format(**numbers)
    for rung in cast("list[dict[str, Any]]", rules["rungs"]):
        if not all(allowed[need] for need in rung.get("needs", [])):
            continue
        tokens = wish.row_tokens if rung["tokens"] == "row" else max(int(rung["tokens"]), wish.row_tokens)
        tried = replace(
            ask,
            micro_batch_tokens=tokens,
            checkpointing=bool(rung.get("checkpointing")),
            zero_stage=int(rung.get("zero_stage", 2)),
            offload_optimizer=bool(rung.get("offload_optimizer")),
        )
        name = "all weights" if method == "full" else f"adapters of rank {ask.lora_rank}"
        memory = plan_memory(shape, tried, f"{name}, ZeRO {tried.zero_stage}, {rung['name']}")
        yield Plan(tried, memory, wish, str(rung["name"]), method_why, str(rung["why"]), layout_why)


def _on_cpu(shape: Shape, wish: Wish) -> Plan:
    """One process without a GPU: everything in float32 in host memory."""
    ask = Ask(
        gpus=0,
        gpu_memory_gib=0.0,
        micro_batch_tokens=max(1024, wish.row_tokens),
        has_reference=wish.compares,
        layout="cpu",
        row_tokens=wish.row_tokens,
        group_size=wish.group_size if wish.draws else 0,
        has_critic=wish.has_critic,
        teacher_parameters=wish.teacher_parameters,
        scorer_parameters=wish.scorer_parameters,
    )
    memory = plan_memory(shape, ask, "all weights in float32, in host memory")
    return Plan(ask, memory, wish, "plain", "without a GPU everything is small: all weights are trained", "", "")
