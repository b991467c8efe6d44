"""What an algorithm changes about the defaults before the registry, your file and your overrides speak.

Each number stands beside its reason. Parameters of the loss itself (`clip_low`, ...) are not here: their defaults are
in the signature of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from oxrl_core.algorithms.base import Algorithm
from oxrl_core.config.mappings import at


@dataclass(frozen=True)
class Choice:
    """One value of a preset and why it is that."""

    key: str
    value: Any
    reason: str
    beside: Callable[[Mapping[str, Any]], Any] | None = None  # the value beside what a configuration says itself


@dataclass(frozen=True)
class Preset:
    """The choices of one algorithm."""

    name: str
    choices: tuple[Choice, ...]

    def values(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return {choice.key: choice.value for choice in self.choices}

    def reasons(self) -> dict[str, str]:
        """Dotted key -> reason."""
        return {choice.key: choice.reason for choice in self.choices}


def _like(base: Preset, name: str, *own: Choice) -> Preset:
    """The choices of another preset under a new name, with those of its own over them."""
    choices = {choice.key: choice for choice in (*base.choices, *own)}
    return Preset(name, tuple(choices.values()))


# --- drawn completions, judged and compared --------------------------------------------------------------------------

SGRPO = Preset(
    "sgrpo",
    (
        Choice("rollout.group_size", 8, "the smallest group whose mean is a steady baseline; DeepSeekMath used 64"),
        Choice("rollout.temperature", 1.0, "the policy itself is sampled, so the log-prob ratio starts at exactly 1"),
        Choice("rollout.max_completion_tokens", 512, "256 cut off more than half of the answers to GSM8K"),
        Choice("train.lr", 1e-6, "of DeepSeekMath and DAPO for full weights; 10 times more diverges"),
        Choice("train.lr_schedule", "constant", "the reward, not the schedule, says when RL is done"),
        Choice("train.prompts_per_step", 32, "256 rollouts a step at group size 8"),
        Choice("train.updates_per_step", 1, "strictly on-policy: every update has rollouts of its own"),
        Choice("train.weight_decay", 0.0, "the updates are small; decay would pull harder than the gradient"),
        Choice("algorithm.kl_coef", 0.0, "off as in DAPO: no reference model in memory; DeepSeekMath used 0.04"),
    ),
)

_FOUR_UPDATES = Choice("train.updates_per_step", 4, "of the paper: before the second update no ratio differs from 1")
_REWARD_KL = (
    Choice("algorithm.kl_place", "reward", "of the paper: the KL is part of what is maximised, not a term beside it"),
    Choice("algorithm.kl_estimator", "k1", "unbiased in the reward, where no gradient flows through it"),
)
_ONE_EACH = (
    Choice("rollout.group_size", 1, "nothing is compared within a group; other prompts teach more than other answers"),
    Choice("train.prompts_per_step", 256, "256 rollouts a step, as many as 32 groups of 8"),
)


def _fifth_of_completion(said: Mapping[str, Any]) -> int:
    """A fifth of the longest completion; 0 where none ends by itself, for then all are as long."""
    most = at(said, "rollout.max_completion_tokens")
    return 0 if at(said, "rollout.stop_at_eos") is False else (most if isinstance(most, int) else 512) // 5


DAPO = _like(
    SGRPO,
    "dapo",
    Choice("algorithm.aggregation", "token", "of the paper: tokens of long answers count as much as those of short"),
    Choice("algorithm.kl_coef", 0.0, "of the paper: a long chain of thought has to leave the initial policy"),
    Choice("rollout.group_size", 16, "of the paper"),
    Choice("rollout.dynamic_sampling", True, "of the paper: a group of equal rewards has no gradient"),
    Choice(
        "reward.overlong_buffer",
        102,
        "a fifth of max_completion_tokens; 4,096 of 20,480 in the paper",
        _fifth_of_completion,
    ),
    Choice("train.updates_per_step", 4, "clip_high acts only after the first update; the paper makes 16 of a batch"),
)
CISPO = _like(
    SGRPO,
    "cispo",
    Choice("algorithm.aggregation", "token", "of the paper: one mean over the tokens of all groups"),
    Choice("algorithm.kl_coef", 0.0, "of the paper"),
    Choice("train.updates_per_step", 4, "the cap acts only after the first update; the paper makes 16 of a batch"),
)
GSPO = _like(
    SGRPO,
    "gspo",
    Choice("algorithm.aggregation", "sequence", "of the paper: one ratio and one mean for each completion"),
    _FOUR_UPDATES,
)
SAPO = _like(
    SGRPO,
    "sapo",
    Choice("algorithm.aggregation", "sequence", "of the paper: a mean over the tokens of each completion"),
    _FOUR_UPDATES,
)
LUSPO = _like(
    GSPO,
    "luspo",
    Choice("algorithm.aggregation", "sequence_sum", "of the paper: a mean would weigh long answers down"),
)
DR_GRPO = _like(
    SGRPO,
    "dr_grpo",
    Choice("algorithm.advantage", "group_centered", "of the paper: dividing by the std favours easy and hard prompts"),
    Choice("algorithm.aggregation", "constant", "of the paper: dividing by the length favours long wrong answers"),
)
RLOO = _like(
    SGRPO,
    "rloo",
    Choice("algorithm.advantage", "leave_one_out", "of the paper: a baseline that does not contain the sample itself"),
    Choice("algorithm.aggregation", "sequence", "of the paper: the whole completion is one action and counts once"),
    Choice("algorithm.kl_coef", 0.05, "of TRL; the paper tunes it for each reward model"),
    *_REWARD_KL,
    Choice("rollout.group_size", 4, "the larger k of the paper"),
    Choice("train.prompts_per_step", 64, "256 rollouts a step at group size 4"),
)
PPO = _like(
    SGRPO,
    "ppo",
    Choice("algorithm.advantage", "gae", "a critic says what each token was worth"),
    Choice("algorithm.whiten", True, "advantages of unit variance, so that one learning rate fits every reward"),
    Choice("algorithm.discount", 1.0, "an answer is judged at its end: no token should matter less for being early"),
    Choice("algorithm.gae_lambda", 0.95, "of the papers of GAE and InstructGPT"),
    Choice("algorithm.value_clip", 0.2, "of the first implementation; the same range as the policy's ratio"),
    Choice("algorithm.critic_lr", 1e-5, "the value head starts from nothing: ten times the policy's rate"),
    Choice("algorithm.kl_coef", 0.05, "of TRL; InstructGPT used 0.02"),
    *_REWARD_KL,
    *_ONE_EACH,
    Choice("train.passes_per_step", 4, "of the usual implementations: a critic needs more than one look"),
)
REINFORCE_PP = _like(
    SGRPO,
    "reinforce_pp",
    Choice("algorithm.advantage", "returns", "of the paper: no critic and no group, the return of each token"),
    Choice("algorithm.whiten", True, "of the paper: the mean of the whole batch is the baseline"),
    Choice("algorithm.kl_coef", 0.01, "of the authors' implementation"),
    *_REWARD_KL,
    *_ONE_EACH,
)
REINFORCE_PP_BASELINE = _like(
    SGRPO,
    "reinforce_pp_baseline",
    Choice("algorithm.advantage", "group_centered", "of the paper: the mean of the group first ..."),
    Choice("algorithm.whiten", True, "of the paper: ... then the deviation of the whole batch, not of the group"),
    Choice("algorithm.kl_coef", 0.001, "a weak hold: the group's mean is a steadier baseline than the batch's"),
    Choice("algorithm.kl_estimator", "k2", "of the paper: in the loss its gradient is that of the KL"),
)
_FROM_FEEDBACK = (
    Choice("reward.normalize", "running", "a score has no unit; its spread must not set the size of the steps"),
    Choice("reward.clip", 5.0, "far from its data a score can be anything; five deviations are enough to say so"),
    Choice("reward.missing_eos_penalty", 1.0, "a cut answer is judged as if it were whole: one deviation less"),
    Choice("algorithm.kl_coef", 0.05, "the verdict is only good near the policy it was learned from"),
    Choice("rollout.group_size", 4, "verdicts cost a model call each"),
    Choice("train.prompts_per_step", 64, "256 rollouts a step at group size 4"),
)
RLHF = _like(
    SGRPO, "rlhf", Choice("reward.name", "reward_model", "a model that was trained on preferences"), *_FROM_FEEDBACK
)
RLAIF = _like(
    SGRPO,
    "rlaif",
    Choice("reward.name", "judge", "a language model that is asked"),
    Choice("reward.timeout_seconds", 600.0, "a step asks hundreds of questions, and an endpoint may make them queue"),
    *_FROM_FEEDBACK,
)

# --- rows with a completion ------------------------------------------------------------------------------------------

SFT = Preset(
    "sft",
    (
        Choice("train.lr", 2e-5, "usual for full weights of 0.5B to 10B parameters"),
        Choice("train.lr_schedule", "linear", "falling to 0 over the run: the last steps average the noise out"),
        Choice("train.rows_per_step", 32, "large enough for a steady gradient, small enough for many steps"),
        Choice("train.epochs", 1.0, "a second pass starts to memorise small data sets"),
        Choice("data.packing", True, "no step is spent on padding where the model keeps packed examples apart"),
    ),
)
CPT = _like(
    SFT,
    "cpt",
    Choice("train.lr", 1e-5, "half of that of sft: raw text is plenty, and what the model knows is easily lost"),
    Choice("train.lr_schedule", "cosine", "of pre-training"),
    Choice("train.weight_decay", 0.1, "of pre-training: a long run over much text"),
)
KD = _like(SFT, "kd", Choice("train.epochs", 1.0, "a row holds a whole distribution at every token: one pass is much"))

# --- rows with preferences -------------------------------------------------------------------------------------------

_NO_PACKING = Choice("data.packing", False, "a loss of whole completions has one of them in a row")
_CACHED = Choice("algorithm.precompute_reference", True, "it never changes: measured once, no second model is held")

# Of the losses that need no reference; those that do add it.
SIMPO = Preset(
    "simpo",
    (
        Choice("train.lr", 1e-6, "of the paper's 3e-7 to 1e-6; at 1e-5 the texts fall apart"),
        Choice("train.lr_schedule", "cosine", "of the paper"),
        Choice("train.rows_per_step", 128, "of the paper: preferences are noisy"),
        Choice("train.epochs", 1.0, "of the paper: a second pass learns the pairs by heart"),
        _NO_PACKING,
    ),
)
DPO = _like(
    SIMPO,
    "dpo",
    Choice("train.lr", 5e-7, "of Zephyr; the paper's 1e-6 for smaller models: it unlearns easily what sft taught"),
    Choice("train.lr_schedule", "linear", "falling to 0 over the run"),
    Choice("train.rows_per_step", 64, "of the paper"),
    Choice("train.epochs", 1.0, "a second pass learns the pairs by heart"),
    _CACHED,
)
IPO = _like(DPO, "ipo", Choice("train.lr", 1e-6, "its gradient ends at the target margin: bolder than dpo"))
ORPO = _like(
    SIMPO,
    "orpo",
    Choice("train.lr", 5e-6, "most of its gradient is that of a likelihood: between dpo and sft"),
    Choice("train.lr_schedule", "linear", "falling to 0 over the run"),
    Choice("train.rows_per_step", 64, "a likelihood is steadier than a preference"),
)
KTO = Preset(
    "kto",
    (
        Choice("train.lr", 5e-7, "of the paper"),
        Choice("train.lr_schedule", "linear", "falling to 0 over the run"),
        Choice("train.rows_per_step", 64, "its baseline is a mean over the step: few rows make it noise"),
        Choice("train.epochs", 1.0, "of the paper"),
        _NO_PACKING,
    ),
)
RM = Preset(
    "rm",
    (
        Choice("train.lr", 1e-5, "of InstructGPT and Llama 2: below sft, for the score is all that is learned"),
        Choice("train.lr_schedule", "cosine", "of InstructGPT and Llama 2"),
        Choice("train.rows_per_step", 64, "of InstructGPT"),
        Choice("train.epochs", 1.0, "of InstructGPT and Llama 2: a second pass overfits"),
        _NO_PACKING,
    ),
)

# --- drawn completions, selected or compared with rows ---------------------------------------------------------------

RFT = _like(
    SGRPO,
    "rft",
    Choice("train.lr", 1e-5, "likelihood as in sft, but of the model's own words, which pull less"),
    Choice("selection.reward_threshold", 1.0, "of a 0/1 reward: right answers only"),
    Choice("selection.max_per_prompt", 4, "half of a group: easy prompts must not crowd out the others"),
)
ONLINE_DPO = _like(
    SGRPO,
    "online_dpo",
    Choice("train.lr", 5e-7, "of the paper, as for dpo"),
    Choice("rollout.group_size", 4, "the best and the worst of 4 differ more often than 2 of 2"),
    Choice("train.prompts_per_step", 64, "at most 64 pairs a step, as dpo"),
)
SPIN = _like(
    SGRPO,
    "spin",
    Choice("train.lr", 5e-7, "of the paper; 1e-7 in its last iterations"),
    Choice("algorithm.reference", "synced", "of the paper: the opponent is the previous iteration"),
    Choice("rollout.sync_every", 100, "an iteration: long enough to tell the data from the opponent's words"),
    Choice("rollout.group_size", 1, "one opponent for each completion of the data"),
    Choice("train.prompts_per_step", 64, "of the paper"),
    Choice("reward.name", "none", "the data's completion is the better one: nothing is judged"),
)
GKD = _like(
    SGRPO,
    "gkd",
    Choice("train.lr", 1e-5, "likelihood under a teacher as in kd, but on words that keep changing"),
    Choice("rollout.drawn_share", 0.5, "of the paper: half of what the student writes, half of the data"),
    Choice("rollout.group_size", 1, "the teacher speaks at every token: other prompts teach more than other answers"),
    Choice("reward.name", "none", "the teacher's distribution is all that is learned from"),
)

PRESETS = {
    preset.name: preset
    for preset in (
        *(SGRPO, CISPO, PPO, RLOO, GSPO, DAPO, DR_GRPO, REINFORCE_PP, REINFORCE_PP_BASELINE, SAPO, LUSPO, RLHF, RLAIF),
        *(SFT, CPT, RFT, KD, GKD, DPO, IPO, SIMPO, ORPO, KTO, RM, ONLINE_DPO, SPIN),
    )
}
# What an algorithm without a preset of its own takes: by what its loss sees, else by what it learns from.
BY_SIGNALS = {"Pairs": SIMPO, "ScoredPairs": RM, "Distributions": KD}
BY_LESSON = {
    "examples": SFT,
    "documents": CPT,
    "pairs": DPO,
    "labeled": KTO,
    "advantages": SGRPO,
    "kept": RFT,
    "best_and_worst": ONLINE_DPO,
    "self_play": SPIN,
    "mixed": GKD,
}

# An adapter has far fewer weights to move and starts from zero: about ten times the learning rate of full weights is
# best for all kinds of training.
LORA_LR_FACTOR = 10


def preset_for(algorithm: Algorithm | None, said: Mapping[str, Any], *, lora: bool) -> Preset:
    """The preset of an algorithm beside what a configuration says itself.

    An algorithm of your own takes the preset of its kind, an unknown one that of sgrpo.
    """
    preset = SGRPO if algorithm is None else PRESETS.get(algorithm.name) or _of_its_kind(algorithm)
    choices = [replace(c, value=c.beside(said)) if c.beside else c for c in preset.choices]
    if not lora:
        return Preset(preset.name, tuple(choices))
    choices = [
        Choice(c.key, c.value * LORA_LR_FACTOR, f"{LORA_LR_FACTOR} x {c.value:g}: adapters want about ten times more")
        if c.key == "train.lr"
        else c
        for c in choices
    ]
    return Preset(f"{preset.name}+lora", tuple(choices))


def _of_its_kind(algorithm: Algorithm) -> Preset:
    of_lesson = BY_LESSON[algorithm.lesson]
    return of_lesson if algorithm.kind == "rl" else BY_SIGNALS.get(algorithm.signals, of_lesson)
