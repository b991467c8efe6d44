"""The seeds' configuration dialect, translated. Only the files `dialect*.py` know the old names.

Every old key has exactly one rule: it is moved (RENAMES), computed together with others (`_steps`, `_batches`, `_data`,
`_workers`, ...), dropped because nothing depends on it (DROPS), or refused because obeying it silently would be wrong
(REFUSALS). Each leaves a note "old -> new (reason)". Keys that an old file does not mention take today's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from oxrl_core.algorithms.base import Algorithm, get_algorithm
from oxrl_core.config.dialect_counts import Counts
from oxrl_core.config.dialect_keys import (
    DROPPED_BRANCHES,
    DROPS,
    JUDGE_KEYS,
    LOSS_PARAMETERS,
    OLD_KEYS,
    PPO_SWITCHES,
    REFUSALS,
    RENAMES,
    REWARD_MODEL_KEYS,
    Rejection,
    is_old_key,
    without_underscores,
)
from oxrl_core.config.dialect_work import MISSING, Translation, put_at, remove_at, value_at, without
from oxrl_core.errors import ConfigError, UserError


def old_keys(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the seeds' dialect in a nested mapping, dotted, with their values."""
    found: dict[str, Any] = {}

    def walk(value: Mapping[str, Any], prefix: str) -> None:
        for key, inner in value.items():
            path = f"{prefix}{key}"
            if path in OLD_KEYS or (path in DROPPED_BRANCHES and not isinstance(inner, Mapping)):
                found[path] = inner
            elif isinstance(inner, Mapping):
                walk(cast("Mapping[str, Any]", inner), f"{path}.")
            elif is_old_key(path):
                found[path] = inner

    walk(mapping, "")
    return found


def translate(mapping: Mapping[str, Any], *, known: Mapping[str, Any] | None = None) -> Translation:
    """The same configuration in today's names; `known` is what other layers say (the algorithm's name, steps)."""
    old = old_keys(mapping)
    result = Translation(mapping=without(mapping, old))
    if old:
        _Translator(old, result, known or {}).run()
    return result


class _Translator(Counts):
    """All rules, in the order in which they need each other."""

    def run(self) -> None:
        self._renames()
        self.algorithm = self._algorithm()
        for part in (
            *(self._refusals, self._models, self._drops, self._losses, self._switches, self._rewards),
            *(self.workers, self.steps, self.batches, self.data),
        ):
            part()
        self._lora_dropout()
        if self.problems:
            raise ConfigError(
                "\n".join(f"{key}: {problem}" for key, problem in self.problems),
                where=", ".join(key for key, _ in self.problems),
                next_step="; ".join(dict.fromkeys(self.next_steps)),
            )
        self.result.notes.append(
            "written in the seeds' dialect: what the config does not mention takes today's defaults, not the seeds'"
        )

    def _renames(self) -> None:
        for old, rule in RENAMES.items():
            if old not in self.old:
                continue
            value = self.old[old]
            if old == "run.distributed_training_strategy" and "deepspeed.zero_optimization.stage" in self.old:
                self.drop(old, "deepspeed.zero_optimization.stage says it")
                continue
            if old == "deepspeed.gradient_clipping" and "train.clip_grad_norm" in self.old:
                self.drop(old, "train.clip_grad_norm says it")
                continue
            if value is None and old in ("train.kl_coeff", "train.entropy_coeff"):
                value = 0.0
            if value is None and rule.drop_none:
                self.drop(old, "null: not set")
                continue
            try:
                self.put(rule.new, rule.convert(value) if rule.convert else value, old, rule.reason)
            except Rejection as error:
                self.refuse(old, f"{value!r}: {error}", f"change {old}")

    def _algorithm(self) -> Algorithm:
        try:
            return get_algorithm(str(self.now("algorithm.name") or "sgrpo"))
        except UserError:
            return get_algorithm("sgrpo")  # the unknown name is reported by the loader

    def _refusals(self) -> None:
        for old, rule in REFUSALS.items():
            if old not in self.old:
                continue
            value = self.old[old]
            if any(value == harmless and type(value) is type(harmless) for harmless in rule.harmless):
                self.drop(old, rule.reason)
            else:
                self.refuse(old, f"{value!r} is refused: {rule.reason}", rule.next_step)
        if "deepspeed.fp16" in self.old:
            value = self.old["deepspeed.fp16"]
            if isinstance(value, Mapping) and cast("Mapping[str, Any]", value).get("enabled"):
                self.refuse("deepspeed.fp16", "float16 would need loss scaling", "use model.precision: bfloat16")
            else:
                self.drop("deepspeed.fp16", "follows from model.precision")

    def _models(self) -> None:
        """The reference, which was the teacher's key as well."""
        reference = self.old.get("model.ref_model", MISSING)
        if reference is MISSING:
            return
        if reference not in (None, "") and self.algorithm.signals == "Distributions":
            self.put("algorithm.teacher", reference, "model.ref_model", "in distillation it named the teacher")
        elif reference in (None, "") or reference == self.now("model.path"):
            self.drop("model.ref_model", "the reference is the initial policy, loaded where the algorithm needs one")
        else:
            self.refuse(
                "model.ref_model",
                f"{reference!r}: the reference is the initial policy itself",
                "remove model.ref_model",
            )

    def _drops(self) -> None:
        for old in self.old:
            if old in DROPS:
                self.drop(old, DROPS[old])
            elif old not in OLD_KEYS:
                branch = next(b for b in DROPPED_BRANCHES if old == b or old.startswith(f"{b}."))
                self.drop(old, DROPPED_BRANCHES[branch])

    def _losses(self) -> None:
        for name in sorted(LOSS_PARAMETERS):
            old = f"train.{name}"
            if old not in self.old:
                continue
            # The old name begins with that of its loss: `simpo_gamma` is no parameter of another loss with a gamma.
            splits = [(name[:i].strip("_"), name[i:].strip("_")) for i in (0, *_places_of("_", name))]
            mine = ("", without_underscores(self.algorithm.name))
            taken = [rest for loss, rest in splits if without_underscores(loss) in mine]
            taken = [rest for rest in taken if rest in self.algorithm.params]
            if not taken:
                self.drop(old, self._not_a_parameter())
            else:
                self.put(f"algorithm.{taken[0]}", self.old[old], old, "a parameter of the loss itself")

    def _not_a_parameter(self) -> str:
        return f"not a parameter of {self.now('algorithm.name') or 'sgrpo'}"

    def _withdraw(self, old: str, new: str) -> None:
        """Takes back what a rename said."""
        remove_at(self.result.mapping, new)
        self.result.sources.pop(new, None)
        self.result.notes = [note for note in self.result.notes if not note.startswith(f"{old} ")]

    def _switches(self) -> None:
        """Clips, KL and entropy, and the critic's: what one algorithm takes and another does not."""
        params, is_compared = self.algorithm.params, self.algorithm.lesson == "advantages"
        if "train.cliprange" in self.old:
            if "clip_low" in params:
                for clip in ("clip_low", "clip_high"):
                    self.put(f"algorithm.{clip}", self.old["train.cliprange"], "train.cliprange", "the same both ways")
            else:
                self.drop("train.cliprange", self._not_a_parameter())
        for clip, bound, sign in (("clip_low", "ratio_floor", -1), ("clip_high", "ratio_cap", 1)):
            old, value = f"train.{clip}", value_at(self.result.mapping, f"algorithm.{clip}")
            if old not in self.old or value is MISSING or clip in params:
                continue
            self._withdraw(old, f"algorithm.{clip}")
            if bound in params and isinstance(value, int | float):
                self.put(f"algorithm.{bound}", 1 + sign * value, old, "absolute, no longer a distance from 1")
            else:
                self.drop(old, self._not_a_parameter())
        for old in ("train.kl_coeff", "train.entropy_coeff"):
            if old in self.old and not is_compared:
                self._withdraw(old, RENAMES[old].new)
                self.drop(old, f"not used by {self.algorithm.name}")
        for old, new in PPO_SWITCHES.items():
            if old not in self.old:
                continue
            if self.algorithm.name == "ppo":
                self.put(new, self.old[old], old, "a switch of the critic")
            else:
                self.drop(old, f"not used by {self.algorithm.name}")
        old = "train.reward_threshold"
        if old in self.old:
            if self.algorithm.lesson == "kept":
                self.put("selection.reward_threshold", self.old[old], old, "same meaning")
            else:
                self.drop(old, self._not_a_parameter())

    def _rewards(self) -> None:
        """Rewards that are models."""
        for old in REWARD_MODEL_KEYS:
            value = self.old.get(old)
            path = cast("Mapping[str, Any]", value).get("model_path") if isinstance(value, Mapping) else value
            if path and (old == "reward.reward_model" or self.algorithm.name == "rlhf" or self._is("reward_model")):
                self.put("reward.name", "reward_model", old, "a learned reward")
                self.put("reward.path", path, old, "its folder, a hub id, or run:<id>")
            elif old in self.old:
                self.drop(old, "no reward model in this run")
        judge = self.old.get("reward.llm_judge")
        if "reward.llm_judge" in self.old and not isinstance(judge, Mapping):
            self.drop("reward.llm_judge", "null: not set")
        elif isinstance(judge, Mapping):
            self._judge(cast("Mapping[str, Any]", judge))

    def _is(self, reward: str) -> bool:
        return self.now("reward.name") == reward

    def _judge(self, judge: Mapping[str, Any]) -> None:
        if judge.get("api_key"):
            self.refuse(
                "reward.llm_judge.api_key",
                "a key does not belong in a file that is copied into every run",
                "put it into an environment variable and name that in api_key_env",
            )
        self.put("reward.name", "judge", "reward.llm_judge", "a language model that is asked")
        self.put("reward.mode", "score", "reward.llm_judge", "it graded each completion by itself")
        for key, value in judge.items():
            old = f"reward.llm_judge.{key}"
            if key in JUDGE_KEYS and value is not None:
                self.put(f"reward.{JUDGE_KEYS[key]}", value, old, "same meaning")
            else:
                self.drop(old, "decided by the judge itself; see `oxrl rewards`")

    def _lora_dropout(self) -> None:
        dropout = value_at(self.result.mapping, "model.lora.dropout")
        if self.is_rl and dropout not in (MISSING, 0, 0.0) and "model.lora.dropout" in self.result.sources:
            put_at(self.result.mapping, "model.lora.dropout", 0.0)
            old = self.result.sources["model.lora.dropout"]
            self.result.notes = [note for note in self.result.notes if not note.startswith(f"{old} ")]
            self.result.notes.append(
                f"{old} -> model.lora.dropout = 0.0 (was {dropout}: in RL dropout would break the log-prob ratio)"
            )


def _places_of(letter: str, text: str) -> list[int]:
    return [index for index, found in enumerate(text) if found == letter]
