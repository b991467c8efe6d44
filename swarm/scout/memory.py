"""What training a model takes of each GPU, part by part. Estimates on the safe side; GiB are 2^30 bytes.

P parameters, T trained ones (all, or those of the adapters), N ranks, w bytes a weight (2 in bfloat16, 4 in float32),
h hidden, L layers, a = heads x head size, k = key-value heads x head size, I intermediate, V vocabulary.

weights       P w, over N with ZeRO 3
gradients     4 T (summed in float32), over N with ZeRO 2 and 3
optimizer     8 T: AdamW's two moments in float32; 12 T from ZeRO 1 on, which keeps a float32 master; over N from ZeRO 1
adapters      T = rank x (inputs + outputs) of the 7 matrices of each layer (packed experts have none)
beside        a separate critic: weights, gradients and optimizer once more; a teacher: its weights whole on each rank;
              a reward model: 4 bytes a parameter in host memory, in float32 in a process of its own
activations   of one token and layer: w (6 h + 2 a + 2 k + 4 I) + 8 h, the last for two norms in float32;
              with checkpointing w h for each layer and the whole of one
logits        12 bytes x min(2^26, tokens x V): chunks of the output head, three float32 tensors of them
buffers       two buckets of 4 bytes an element; ZeRO 3: two layers and the embedding, gathered
KV cache      of one token: 2 k w for each layer with full attention; windows keep only their own length
overhead      1 GiB of context on each GPU, 1.5 GiB for vLLM's profile and graphs; 5 % of the GPU stay free
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from oxrl_core.config.machine import GIB
from oxrl_core.config.shape import Shape, adapter_parameters
from swarm.scout.views import MemoryView

CONTEXT_GIB = 1.0
SAMPLER_GIB = 1.5
SLEEPING_GIB = 1.0  # what vLLM keeps while it sleeps
FREE_SHARE = 0.05
MAX_FRACTION = 0.9
CHUNK_ELEMENTS = 2**26  # of the output head
PROCESS_GIB = 1.2  # a Python process with torch

Layout = Literal["cpu", "learner", "colocated", "apart"]


@dataclass(frozen=True)
class Ask:
    """How a model is to be trained."""

    gpus: int  # in all; 0: the CPU
    gpu_memory_gib: float
    ranks: int = 1
    zero_stage: int = 2
    lora_rank: int = 0  # 0: all weights are trained
    checkpointing: bool = False
    micro_batch_tokens: int = 8192
    offload_optimizer: bool = False
    offload_params: bool = False
    has_reference: bool = False
    bucket_size: int = 50_000_000
    layout: Layout = "learner"
    tensor_parallel: int = 1
    row_tokens: int = 1024  # prompt and completion
    has_critic: bool = False  # an engine of its own beside the policy
    teacher_parameters: int = 0
    scorer_parameters: int = 0  # of a reward model
    group_size: int = 8

    @property
    def width(self) -> int:
        return 2 if self.gpus else 4


def trained_parameters(shape: Shape, ask: Ask) -> int:
    return min(shape.parameters, adapter_parameters(shape, ask.lora_rank)) if ask.lora_rank else shape.parameters


def weight_bytes(shape: Shape, ask: Ask) -> float:
    """On one rank; with offloaded weights what is gathered stands under buffers."""
    if ask.zero_stage == 3 and ask.offload_params:
        return 0.0
    return shape.parameters * ask.width / (ask.ranks if ask.zero_stage == 3 else 1)


def gradient_bytes(shape: Shape, ask: Ask) -> float:
    return 4 * trained_parameters(shape, ask) / (ask.ranks if ask.zero_stage >= 2 else 1)


def optimizer_bytes(shape: Shape, ask: Ask) -> float:
    """On one rank, wherever it is kept."""
    each = 12 if ask.zero_stage >= 1 else 8
    return each * trained_parameters(shape, ask) / (ask.ranks if ask.zero_stage >= 1 else 1)


def activation_bytes(shape: Shape, ask: Ask) -> float:
    h, w = shape.hidden, ask.width
    layer = w * (6 * h + 2 * shape.attention_width + 2 * shape.kv_width + 4 * shape.intermediate) + 8 * h
    each = shape.layers * w * h + layer if ask.checkpointing else shape.layers * layer
    return each * ask.micro_batch_tokens


def logits_bytes(shape: Shape, ask: Ask) -> float:
    return 12.0 * min(CHUNK_ELEMENTS, ask.micro_batch_tokens * shape.vocabulary)


def buffer_bytes(shape: Shape, ask: Ask) -> float:
    buckets = 2.0 * 4 * min(ask.bucket_size, trained_parameters(shape, ask)) if ask.ranks > 1 else 0.0
    if ask.zero_stage == 3 and (ask.ranks > 1 or ask.offload_params):
        table = shape.vocabulary * shape.hidden
        buckets += ask.width * (2 * max(0, shape.parameters - table) / shape.layers + table)
    return buckets


def kv_bytes_per_token(shape: Shape, ask: Ask, length: int) -> float:
    """Mean over a sequence of this length: layers with a window keep no more than that."""
    windowed = shape.window_layers * min(1.0, shape.window / length) if length else 0.0
    return 2 * shape.kv_width * ask.width * (shape.cached_layers + windowed)


def plan_memory(shape: Shape, ask: Ask, strategy: str = "") -> MemoryView:
    """Every part in GiB, and whether it fits into GPUs of this size; `why` has the numbers."""
    trained = (weight_bytes(shape, ask), gradient_bytes(shape, ask), optimizer_bytes(shape, ask))
    weights, gradients, optimizer = (value / GIB for value in trained)
    activations, logits = activation_bytes(shape, ask) / GIB, logits_bytes(shape, ask) / GIB
    reference = shape.parameters * ask.width / GIB if ask.has_reference and not ask.lora_rank else 0.0
    buffers = buffer_bytes(shape, ask) / GIB
    engines = 2 if ask.has_critic else 1
    on_gpu = 0.0 if ask.offload_optimizer else optimizer
    beside = ask.teacher_parameters * ask.width / GIB + (weights + gradients + on_gpu if ask.has_critic else 0.0)
    scorer = 4 * ask.scorer_parameters / GIB
    own = CONTEXT_GIB if ask.gpus else PROCESS_GIB
    resting = weights + gradients + on_gpu + reference + beside + buffers + own
    learner = resting + activations + logits
    kv_token = kv_bytes_per_token(shape, ask, ask.row_tokens)
    kv_row = kv_token * ask.row_tokens / GIB / ask.tensor_parallel
    sampler_weights = shape.parameters * ask.width / GIB / ask.tensor_parallel
    view = MemoryView(
        fits=True,
        gpus=ask.gpus,
        gpu_memory_gib=ask.gpu_memory_gib,
        strategy=strategy,
        layout=ask.layout,
        weights_gib=weights,
        gradients_gib=gradients,
        optimizer_gib=optimizer,
        activations_gib=activations,
        logits_gib=logits,
        reference_gib=reference,
        beside_gib=beside,
        buffers_gib=buffers,
        learner_gib=learner,
        sampler_weights_gib=0.0 if ask.layout == "learner" else sampler_weights,
        kv_kib_per_token=kv_token / 1024,
        host_gib=ask.ranks * ((engines * optimizer if ask.offload_optimizer else 0.0) + PROCESS_GIB) + scorer,
    )
    room = ask.gpu_memory_gib * (1 - FREE_SHARE)
    if ask.layout == "cpu":
        # The sampler's copy, and the weights on their way to it.
        view.host_gib = learner + scorer + (2 * sampler_weights + kv_row * ask.group_size if ask.group_size else 0.0)
    elif learner > room:
        view.fits = False
        view.why = f"a training GPU needs {learner:.1f} GiB of {room:.1f}"
    if ask.layout in ("colocated", "apart"):
        _plan_sampler(view, ask, resting, kv_row, room)
    if view.layout == "colocated" and view.fits and learner + SLEEPING_GIB > room:
        view.fits = False
        view.why = (
            f"a training GPU needs {learner:.1f} GiB beside a sleeping sampler of {SLEEPING_GIB:g}, of {room:.1f}"
        )
    return _rounded(view)


def _plan_sampler(view: MemoryView, ask: Ask, resting: float, kv_row: float, room: float) -> None:
    """The share of a GPU that vLLM takes, and the completions that its cache holds at once."""
    free = room - (resting if ask.layout == "colocated" else CONTEXT_GIB)
    fraction = int(min(MAX_FRACTION, max(0.0, free / ask.gpu_memory_gib)) * 20) / 20  # in steps of 0.05, downwards
    cache = fraction * ask.gpu_memory_gib - view.sampler_weights_gib - SAMPLER_GIB
    view.memory_fraction = fraction
    view.kv_gib = max(0.0, cache)
    view.sampler_gib = view.sampler_weights_gib + SAMPLER_GIB + view.kv_gib
    view.sequences = int(view.kv_gib / kv_row) if kv_row else ask.group_size
    if view.fits and (fraction <= 0 or view.sequences < 2):
        view.fits = False
        view.why = (
            f"the sampler needs {view.sampler_weights_gib + SAMPLER_GIB + 2 * kv_row:.1f} GiB for its weights and two "
            f"completions; {max(0.0, free):.1f} GiB of a GPU are free for it"
        )


def _rounded(view: MemoryView) -> MemoryView:
    shown = {name: round(value, 2) for name, value in view if isinstance(value, float)}
    return view.model_copy(update=shown)
