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
MediaKind = Literal["image", "audio"]
FinishReason = Literal["stop", "length"]
ScoreStatus = Literal["ok", "no_answer", "timeout", "error"]


@dataclass(frozen=True)
class Media:
    """A picture or a sound as its source has it: the bytes of a file (PNG, JPEG, WAV, ...), or where the file is."""

    kind: MediaKind
    data: bytes = field(default=b"", repr=False)
    path: str = ""  # used where there are no bytes


@dataclass(frozen=True)
class Prompt:
    """One task as the model will read it."""

    id: str  # stable across runs: "<dataset>/<split>/<index>"
    token_ids: list[int]
    text: str  # what the token ids say, for people and verifiers
    answer: str = ""  # the reference, empty where there is none
    row: Row = field(default_factory=dict[str, Any])  # the source row, for rewards that need more
    answer_ids: list[int] = field(default_factory=list[int])  # the answer as tokens with EOS, to compare token by token
    completion_ids: list[int] = field(default_factory=list[int])  # the row's own completion with EOS; empty without one
    messages: list[Message] | None = None  # the prompt before any template: another model renders it with its own
    media: tuple[Media, ...] = ()  # what the placeholder tokens among token_ids stand for, in their order


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
    draw: int = 0  # the round of drawing within the step; above 0 with dynamic sampling only


@dataclass
class Measurement:
    """What the trainer says about a rollout before it learns from it; one number for each completion token."""

    old_logprobs: list[float]
    ref_logprobs: list[float] = field(default_factory=list[float])  # empty without a reference
    values: list[float] = field(default_factory=list[float])  # the critic's, before each token; empty without a critic
    last_value: float = 0.0  # the critic's value after the last token; only a truncated rollout is worth it


@dataclass
class Credit:
    """What a rollout teaches: an advantage for each completion token, and with a critic the return to predict."""

    advantages: list[float]
    returns: list[float] = field(default_factory=list[float])
    measurement: Measurement | None = None
    reward: float | None = None  # the verdict after shaping: what the advantages were made of


@dataclass(frozen=True)
class Example:
    """A prompt with its completion, and which of the tokens are trained on."""

    token_ids: list[int]
    completion_mask: list[bool]
    media: tuple[Media, ...] = ()  # what the placeholder tokens among token_ids stand for, in their order


@dataclass(frozen=True)
class PairExample:
    """Two completions of one prompt, the first preferred."""

    chosen: Example
    rejected: Example
    margin: float = 0.0  # how much better, in the units of the data or of the reward; 0 where nobody said
    ref_logprobs: tuple[float, float] | None = None  # sums of chosen and rejected under the reference, where cached


@dataclass(frozen=True)
class LabeledExample:
    """A completion that is desirable or not, and the same prompt with a completion of another row (KTO's baseline)."""

    example: Example
    is_desirable: bool
    mismatched: Example
    ref_logprobs: tuple[float, float] | None = None  # sums of example and mismatched under the reference, where cached


@dataclass
class TokenBatch:
    """Rows of tokens on the way to a model. Padding is at the right; segments > 1 only in packed rows."""

    input_ids: Tensor  # (B, T) int64
    attention_mask: Tensor  # (B, T) bool, False on padding
    position_ids: Tensor  # (B, T) int64, restarting in every packed segment
    completion_mask: Tensor  # (B, T) bool: the tokens that are trained on; column 0 of a segment never is
    segment_ids: Tensor  # (B, T) int64: 0 on padding, 1.. for the examples of the row
    # Features of the rows' media by the model's own names, each (media of all rows in order, ...); None without media.
    media_inputs: dict[str, Tensor] | None = field(default=None, kw_only=True)

    @property
    def num_tokens(self) -> int:
        """Tokens that are trained on."""
        return int(self.completion_mask.sum())


@dataclass
class RolloutBatch(TokenBatch):
    """Rollouts with what they teach, on the way to a policy or a critic. Every tensor is 0 where the mask is False."""

    advantages: Tensor  # (B, T) float32
    rollout_logprobs: Tensor  # (B, T) float32
    old_logprobs: Tensor | None = None  # (B, T), None where each rollout is trained on once
    ref_logprobs: Tensor | None = None  # (B, T), None where they were not measured before the update
    old_values: Tensor | None = None  # (B, T), None without a critic
    returns: Tensor | None = None  # (B, T), None without a critic


@dataclass
class PairBatch(TokenBatch):
    """B pairs as 2B rows: the chosen completions, then the rejected ones in the same order. One segment a row."""

    margins: Tensor  # (B,) float32
    ref_logprobs: Tensor | None = None  # (2B,) float32 sums under the reference; None: not cached

    @property
    def num_pairs(self) -> int:
        """B."""
        return len(self.margins)


@dataclass
class LabeledBatch(TokenBatch):
    """B labeled examples as 2B rows: the examples, then their mismatched twins (prompt i with a completion of j)."""

    is_desirable: Tensor  # (B,) bool
    ref_logprobs: Tensor | None = None  # (2B,) float32 sums under the reference; None: not cached

    @property
    def num_examples(self) -> int:
        """B."""
        return len(self.is_desirable)

    @property
    def num_tokens(self) -> int:
        """Tokens that are trained on: the mismatched twins are only measured."""
        return int(self.completion_mask[: self.num_examples].sum())


# ---- what a loss sees: the type of its first argument says which data and models it needs ---------------------------


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a supervised loss sees. It returns (B, T)."""

    logprobs: Tensor  # (B, T) float32, with gradient
    completion_mask: Tensor  # (B, T) bool
    entropy: Tensor | None = None  # (B, T) float32 of the distribution at each token


@dataclass(frozen=True, kw_only=True)
class Rollouts(Tokens):
    """What a policy-gradient loss sees: one action per token, one rollout per row. It returns (B, T)."""

    advantages: Tensor  # (B, T) float32
    old_logprobs: Tensor  # (B, T) float32 without gradient
    rollout_logprobs: Tensor | None = None  # (B, T) float32, the sampler's own
    ref_logprobs: Tensor | None = None  # (B, T) float32, only where a KL term is on


@dataclass(frozen=True, kw_only=True)
class Values:
    """What a critic's loss sees: one state per token, the one before it was drawn. It returns (B, T)."""

    values: Tensor  # (B, T) float32, with gradient
    old_values: Tensor  # (B, T) float32, when the rollouts were measured
    returns: Tensor  # (B, T) float32
    completion_mask: Tensor  # (B, T) bool


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """What a distillation loss sees: whole distributions at N completion tokens. It returns (N,).

    The trainer calls the loss on chunks of the step's tokens and recomputes them in backward: no (B, T, V) tensor.
    """

    logits: Tensor  # (N, V) float32 of the student, with gradient
    teacher_logits: Tensor  # (N, V) float32
    targets: Tensor  # (N,) int64: the tokens that stand there


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What a preference loss without a reference sees: B pairs. It returns (B,)."""

    chosen_logprobs: Tensor  # (B, T) float32, with gradient, 0 outside the mask
    rejected_logprobs: Tensor  # (B, T)
    chosen_mask: Tensor  # (B, T) bool
    rejected_mask: Tensor  # (B, T) bool
    margins: Tensor  # (B,) float32: how much better the chosen one is, as the data says; else 0

    @property
    def chosen(self) -> Tensor:
        """(B,) log-probs of the whole chosen completions: sums over tokens."""
        return self.chosen_logprobs.sum(1)

    @property
    def rejected(self) -> Tensor:
        """(B,) log-probs of the whole rejected completions: sums over tokens."""
        return self.rejected_logprobs.sum(1)

    @property
    def chosen_length(self) -> Tensor:
        """(B,) float32 tokens of the chosen completions, at least 1."""
        return self.chosen_mask.sum(1).clamp(min=1).to(self.chosen_logprobs.dtype)

    @property
    def rejected_length(self) -> Tensor:
        """(B,) float32 tokens of the rejected completions, at least 1."""
        return self.rejected_mask.sum(1).clamp(min=1).to(self.rejected_logprobs.dtype)

    @property
    def chosen_mean(self) -> Tensor:
        """(B,) mean log-prob per token of the chosen completions."""
        return self.chosen / self.chosen_length

    @property
    def rejected_mean(self) -> Tensor:
        """(B,) mean log-prob per token of the rejected completions."""
        return self.rejected / self.rejected_length


@dataclass(frozen=True, kw_only=True)
class ReferencedPairs(Pairs):
    """What a preference loss against a reference policy sees. It returns (B,)."""

    chosen_ref: Tensor  # (B,) sums of log-probs under the reference
    rejected_ref: Tensor  # (B,)

    @property
    def chosen_logratio(self) -> Tensor:
        """(B,) log pi(chosen) - log ref(chosen)."""
        return self.chosen - self.chosen_ref

    @property
    def rejected_logratio(self) -> Tensor:
        """(B,) log pi(rejected) - log ref(rejected)."""
        return self.rejected - self.rejected_ref

    @property
    def gap(self) -> Tensor:
        """(B,) log-ratio of the chosen minus log-ratio of the rejected completion."""
        return self.chosen_logratio - self.rejected_logratio


@dataclass(frozen=True, kw_only=True)
class StepPairs(ReferencedPairs):
    """Pairs that also know, without gradient, the log-ratios of all N pairs of the step, over all micro-batches and
    ranks: for losses that compare a pair with the others. Costs a forward pass without gradient. It returns (B,).
    """

    index: Tensor  # (B,) int64: where these pairs stand among the N
    step_chosen_logratio: Tensor  # (N,) float32 without gradient
    step_rejected_logratio: Tensor  # (N,)
    running: dict[str, float]  # what the algorithm's `running` function made of the steps so far and of this one

    @property
    def step_gap(self) -> Tensor:
        """(N,) log-ratio gaps of the whole step, without gradient."""
        return self.step_chosen_logratio - self.step_rejected_logratio


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """What a loss over single labeled completions sees. It returns (B,)."""

    logratio: Tensor  # (B,) log pi(y|x) - log ref(y|x), sums over tokens, with gradient
    is_desirable: Tensor  # (B,) bool
    step_logratio: Tensor  # (N,) float32 without gradient: of all examples of the step, all micro-batches and ranks
    step_is_desirable: Tensor  # (N,) bool
    step_mismatched: Tensor  # (N,) float32 without gradient: log-ratios of y' of another row under x
    running: dict[str, float]  # what the algorithm's `running` function made of the steps so far and of this one


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """What a reward model's loss sees. It returns (B,)."""

    chosen_score: Tensor  # (B,) float32, with gradient
    rejected_score: Tensor  # (B,)
    margins: Tensor  # (B,) float32


@dataclass
class Progress:
    """All that a resume needs besides tensors. It lives in every checkpoint, as JSON."""

    step: int = 0  # optimizer steps taken; also the policy version
    epoch: int = 0
    row_cursor: int = 0  # rows of the (shuffled, mixed) stream consumed in this epoch
    item_cursor: int = 0  # items consumed of the row at row_cursor, where a row gives several (windows of a text)
    num_tokens: int = 0  # tokens trained on so far
    num_rollouts: int = 0
    best_eval: float | None = None
    synced_step: int = 0  # the step whose weights the sampler holds
    reward_moments: dict[str, float] = field(default_factory=dict[str, float])  # of all rewards so far
    tripwires: dict[str, Any] = field(default_factory=dict[str, Any])  # what the tripwires remember of the steps so far
    recent_rewards: list[float] = field(default_factory=list[float])  # mean rewards of the last steps, newest last
    row_counts: dict[str, int] = field(default_factory=dict[str, int])  # rows dropped, cut, folded so far
