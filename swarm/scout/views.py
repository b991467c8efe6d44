"""What the Scout answers with: parsed fields only, never prose of a model card."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from oxrl_core.runs.views import View

Verdict = Literal["yes", "maybe", "no"]
Level = Literal["block", "warning", "info"]


class Risk(View):
    """Something about a repository that could harm whoever loads it."""

    code: str
    level: Level
    where: str = ""
    what: str


class ModelProblem(View):
    """Something that would go wrong in a run."""

    code: str
    """Id of a failure signature (oxrl_core/diagnose/signatures.yaml)."""
    severity: Literal["error", "warning", "info"]
    what: str
    next: str = ""


class TemplateView(View):
    """What the chat template does, found out by rendering it in a sandbox (or said by the registry)."""

    present: bool = False
    system_role: Literal["kept", "refused", "dropped", "unknown"] = "unknown"
    default_system: bool | None = None
    """Whether it writes a system message of its own where there is none."""
    strict_alternation: bool | None = None
    generation_prompt: str = ""
    """What it puts before an answer; "(unusual)" where that is more than markers and a role."""
    thinking: Literal["never", "always", "on", "off", "unknown"] = "unknown"
    drops_thinking: bool | None = None
    """Whether it takes the thoughts out of earlier answers."""
    ends_with_eos: bool | None = None
    double_bos: bool | None = None
    error: str = ""


class SupportView(View):
    """Which installed engines know the architecture; looked up in their files, nothing is imported."""

    transformers: bool | None = None
    transformers_version: str = ""
    vllm: bool | None = None
    vllm_version: str = ""


class MemoryView(View):
    """GiB of the fullest training GPU and of the sampler (estimates; formulas in swarm/scout/memory.py)."""

    fits: bool
    gpus: int
    gpu_memory_gib: float
    strategy: str
    layout: Literal["cpu", "learner", "colocated", "apart"]
    weights_gib: float = 0.0
    gradients_gib: float = 0.0
    optimizer_gib: float = 0.0
    activations_gib: float = 0.0
    logits_gib: float = 0.0
    reference_gib: float = 0.0
    beside_gib: float = 0.0
    """A separate critic and a teacher."""
    buffers_gib: float = 0.0
    learner_gib: float = 0.0
    sampler_weights_gib: float = 0.0
    kv_kib_per_token: float = 0.0
    kv_gib: float = 0.0
    sampler_gib: float = 0.0
    memory_fraction: float = 0.0
    sequences: int = 0
    """Completions of full length that the KV cache holds at once."""
    host_gib: float = 0.0
    why: str = ""


class Proposal(View):
    """A first task for the model."""

    task: str
    dataset: str
    reward: str = ""
    why: str


class ModelReport(View):
    """A model as far as it can be known without loading it."""

    model: str
    source: Literal["hub", "folder", "registry"]
    source_note: str = ""
    revision: str = ""
    """The commit that was looked at; name it in model.revision."""
    architecture: str = ""
    model_type: str = ""
    parameters: int | None = None
    parameters_from: str = ""
    dtype: str = ""
    context: int | None = None
    vocabulary: int | None = None
    modality: list[str] = Field(default_factory=list[str])
    license: str = ""
    gated: bool | None = None
    downloads: int | None = None
    tags: list[str] = Field(default_factory=list[str])
    weights_gib: float | None = None
    bos: str = ""
    eos: str = ""
    pad: str = ""
    chat_template: TemplateView = TemplateView()
    support: SupportView = SupportView()
    lora_targets: list[str] = Field(default_factory=list[str])
    lora_targets_from: str = ""
    proposals: list[Proposal] = Field(default_factory=list[Proposal])
    memory: list[MemoryView] = Field(default_factory=list[MemoryView])
    strategy: str = ""
    risks: list[Risk] = Field(default_factory=list[Risk])
    problems: list[ModelProblem] = Field(default_factory=list[ModelProblem])
    verdict: Verdict
    reasons: list[str] = Field(default_factory=list[str])
    seconds: float = 0.0
    next: str = ""


class ModelRow(View):
    """One model of a listing."""

    id: str
    slug: str = ""
    """Name of its registry entry; empty: the registry does not know it."""
    parameters_b: float | None = None
    license: str = ""
    gated: bool | None = None
    modality: list[str] = Field(default_factory=list[str])
    downloads: int | None = None
    why: str = ""


class ModelList(View):
    """One page of models."""

    items: list[ModelRow]
    source: str
    """Where they come from: registry, hub, or both."""
    note: str = ""
    next_cursor: str = ""
    next: str = ""
