"""The nouns that cross room borders. Torch is named here for the type checker alone.

Shapes: B sequences, T tokens, V vocabulary, G group, P prompts. Every (B, T) tensor is token-aligned: column t speaks
about token t of the row: the log-prob in column t is log p(token t | tokens before t), and column 0 is always masked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Metrics = dict[str, float]
Message = dict[str, str]  # {"role": ..., "content": ...}
Row = dict[str, Any]  # one example of a dataset: prompt, completion or answer, and what else the source holds
FinishReason = Literal["stop", "length"]
ScoreStatus = Literal["ok", "no_answer", "timeout", "error"]


@dataclass(frozen=True)
class Prompt:
    """One task as the model will read it."""

    id: str  # stable across runs: "<dataset>/<split>/<index>"
    token_ids: list[int]
    text: str  # what the token ids say, for people and verifiers
    answer: str = ""  # the reference, empty where there is none
    row: Row = field(default_factory=dict[str, Any])  # the source row, for rewards that need more
    answer_ids: list[int] = field(default_factory=list[int])  # the answer as tokens with EOS, to compare token by token


@dataclass(frozen=True)
class Score:
    """A reward's verdict. Its value counts with status "ok" or "no_answer": an error is never a zero in disguise."""

    value: float
    status: ScoreStatus = "ok"
    parts: dict[str, float] = field(default_factory=dict[str, float])
    detail: str = ""


@dataclass
class Rollout:
    """One completion that the sampler drew, with what it said about each token."""

    prompt: Prompt
    sample_index: int  # 0 .. G-1 within the group
    token_ids: list[int]  # completion only; ends with EOS when finish_reason is "stop"
    rollout_logprobs: list[float]  # the sampler's log-prob of each completion token, at the sampling temperature
    finish_reason: FinishReason
    policy_version: int  # the number of optimizer steps behind the weights that drew it
    seed: int
    text: str = ""  # the completion decoded without special tokens
    score: Score | None = None


@dataclass
class TokenBatch:
    """Rows of tokens on the way to a model. Padding is at the right; segments > 1 only in packed rows."""

    input_ids: Tensor  # (B, T) int64
    attention_mask: Tensor  # (B, T) bool, False on padding
    position_ids: Tensor  # (B, T) int64, restarting in every packed segment
    completion_mask: Tensor  # (B, T) bool: the tokens that are trained on; column 0 of a segment never is
    segment_ids: Tensor  # (B, T) int64: 0 on padding, 1.. for the examples of the row

    @property
    def num_tokens(self) -> int:
        """Tokens that are trained on."""
        return int(self.completion_mask.sum())


@dataclass
class RolloutBatch(TokenBatch):
    """Rollouts with their advantages, on the way to a policy."""

    advantages: Tensor  # (B, T) float32, 0 where the mask is False
    rollout_logprobs: Tensor  # (B, T) float32, 0 where the mask is False
    old_logprobs: Tensor | None = None  # (B, T), None where each rollout is trained on once


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a supervised loss sees."""

    logprobs: Tensor  # (B, T) float32, with gradient
    completion_mask: Tensor  # (B, T) bool
    entropy: Tensor | None = None  # (B, T) float32 of the distribution at each token


@dataclass(frozen=True, kw_only=True)
class Rollouts(Tokens):
    """What a policy-gradient loss sees: one action per token."""

    advantages: Tensor  # (B, T) float32
    old_logprobs: Tensor  # (B, T) float32 without gradient
    rollout_logprobs: Tensor | None = None  # (B, T) float32, the sampler's own
    ref_logprobs: Tensor | None = None  # (B, T) float32, only where a KL term is on


@dataclass
class Progress:
    """All that a resume needs besides tensors. It lives in every checkpoint, as JSON."""

    step: int = 0  # optimizer steps taken; also the policy version
    epoch: int = 0
    row_cursor: int = 0  # rows of the (shuffled, mixed) stream consumed in this epoch
    num_tokens: int = 0  # tokens trained on so far
    num_rollouts: int = 0
    best_eval: float | None = None
