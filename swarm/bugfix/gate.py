"""What may be changed to make a failed run work: a list of keys with bounds, and invariants that hold after any patch.

S: how a run is carried out. Applied without asking.
A: what is learned. Only where the operator's policy says so.
N: what a run is measured by, or how much it does. Never: a run that passes by doing less has not been repaired.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oxrl_core.diagnose.plans import ORDER, value_at
from oxrl_core.diagnose.views import Change, Risk
from oxrl_core.errors import ConfigError, OxrlError
from swarm.bugfix.policy import Policy

MAX_CHANGES = 5  # of one attempt; the rules' own plans change one thing, and at most what goes with it
BOOLEAN = (False, True)


@dataclass(frozen=True)
class Bound:
    """What a key may become."""

    risk: Risk
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    never_below_old: bool = False
    never_above_old: bool = False


ALLOWED: dict[str, Bound] = {
    "train.micro_batch_tokens": Bound("S", 1, 1 << 20),
    "train.keep_checkpoints": Bound("S", 1, 100),
    "train.save_every": Bound("S", 1, 1_000_000),
    "train.async_save": Bound("S", choices=BOOLEAN),
    "train.num_workers": Bound("S", 1, 1024, never_above_old=True),  # a step's rows are those of all ranks together
    "model.attention": Bound("S", choices=("sdpa", "eager")),
    "model.gradient_checkpointing": Bound("S", choices=BOOLEAN),
    "model.precision": Bound("S", choices=("float32", "auto")),
    "deepspeed.zero_stage": Bound("S", choices=(0, 1, 2, 3)),
    "deepspeed.offload_optimizer": Bound("S", choices=BOOLEAN),
    "deepspeed.offload_params": Bound("S", choices=BOOLEAN),
    "deepspeed.bucket_size": Bound("S", 1_000_000, 1_000_000_000),
    "rollout.engine": Bound("S", choices=("auto", "vllm", "transformers")),
    "rollout.memory_fraction": Bound("S", 0.05, 0.92),
    "rollout.cpu_kv_cache_gib": Bound("S", 1, 64),
    "rollout.tensor_parallel": Bound("S", 1, 64),
    "rollout.num_workers": Bound("S", 1, 1024, never_above_old=True),
    "rollout.colocate": Bound("S", choices=BOOLEAN),
    "rollout.retries": Bound("S", 0, 10),
    "run.backend": Bound("S", choices=("ray", "local")),
    "run.start_timeout_seconds": Bound("S", 1, 7200, never_below_old=True),
    "run.call_timeout_seconds": Bound("S", 1, 14400, never_below_old=True),
    "reward.timeout_seconds": Bound("S", 1, 3600, never_below_old=True),
    "report.sinks": Bound("S", choices=([], ["auto"])),
    "data.packing": Bound("S", choices=(False,)),
    "data.max_prompt_tokens": Bound("A", 16, 1 << 20),
    "data.max_length": Bound("A", 16, 1 << 20),
    "data.overlong": Bound("A", choices=("drop", "left", "right")),
    "data.train.0.split": Bound("A"),
    "data.train.0.prompt_column": Bound("A"),
    "data.train.0.completion_column": Bound("A"),
    "data.train.0.answer_column": Bound("A"),
    "data.apply_chat_template": Bound("A", choices=(None, *BOOLEAN)),
    "rollout.max_completion_tokens": Bound("A", 16, 1 << 17),
    "rollout.group_size": Bound("A", 2, 256),
    "rollout.top_p": Bound("A", 0.01, 1.0, never_below_old=True),
    "rollout.top_k": Bound("A", choices=(0,)),
    "rollout.sync_every": Bound("A", choices=(1,)),
    "rollout.pipeline": Bound("A", choices=(0,)),
    "rollout.stop_at_eos": Bound("A", choices=BOOLEAN),
    "train.lr": Bound("A", 1e-9, 1e-2),
    "train.warmup_steps": Bound("A", 0, 10_000),
    "train.max_grad_norm": Bound("A", 1e-3, 10.0, never_above_old=True),
    "train.lr_floor": Bound("A", 0, 1),
    "algorithm.kl_coef": Bound("A", 0, 1),
    "algorithm.entropy_coef": Bound("A", 0, 1),
    "algorithm.mismatch": Bound("A", choices=("off", "tis", "icepop", "mis")),
    "model.lora.target_modules": Bound("A"),
    "model.lora.dropout": Bound("A", choices=(0.0,)),
}
# Longest first: a key is refused for the reason of the nearest section around it.
NEVER: dict[str, str] = {
    "train.steps": "a run that passes by doing fewer steps has not been repaired",
    "train.epochs": "a run that passes by doing fewer steps has not been repaired",
    "train.stop_at_reward": "a run that passes by ending earlier has not been repaired",
    "train.eval_every": "the evaluation stays as it is",
    "train.eval_rows": "the evaluation stays as it is",
    "data.eval": "the held-out data stays as it is",
    "reward": "the verdict stays as it is: a reward that is easier to get proves nothing",
    "tripwires": "a tripwire that is silenced is not a run that is mended",
    "rollout.logprob_gap_limit": "a limit that is raised is not a gap that is closed",
    "rollout.fingerprint_limit": "a limit that is raised is not a gap that is closed",
    "rollout.record": "without its rollouts nothing of the run can be checked",
    "run.seed": "another seed is another experiment",
    "algorithm.name": "another algorithm is another experiment",
    "model.path": "another model is another experiment",
    "model.revision": "another model is another experiment",
}
# What must be equal before and after, whatever the patch was.
INVARIANT = (
    "run.seed", "algorithm.name", "model.path", "model.revision", "data.eval", "train.steps", "train.epochs",
    "train.stop_at_reward", "train.eval_every", "train.eval_rows", "reward.name", "tripwires", "train.prompts_per_step",
    "train.rows_per_step", "train.lr", "rollout.group_size", "rollout.temperature", "rollout.record",
    "rollout.logprob_gap_limit", "rollout.fingerprint_limit",
)  # fmt: skip


class PatchRefused(ConfigError):
    """A patch that the gate does not let through."""


def check_patch(
    changes: Sequence[Change],
    settings: Mapping[str, Any],
    policy: Policy,
    tried: Iterable[tuple[str, Any]] = (),
) -> list[Change]:
    """The changes with the class that the gate gives them; raises PatchRefused where one of them may not be made."""
    if len(changes) > MAX_CHANGES:
        raise PatchRefused(
            f"{len(changes)} changes at once", "overrides", f"at most {MAX_CHANGES}: one thing at a time"
        )
    known = {(path, _plain(value)) for path, value in tried}
    checked = [_checked(change, settings, policy) for change in changes]
    if checked and all((change.path, _plain(change.new)) in known for change in checked):
        shown = ", ".join(as_override(change) for change in checked)
        raise PatchRefused(f"{shown} was tried before and did not help", checked[0].path, "try something else")
    return checked


def _checked(change: Change, settings: Mapping[str, Any], policy: Policy) -> Change:
    path, old, new = change.path, value_at(settings, change.path), change.new
    for prefix in sorted(NEVER, key=len, reverse=True):
        if path not in ALLOWED and (path == prefix or path.startswith(f"{prefix}.")):
            raise PatchRefused(
                f"{path} is never changed to make a run pass: {NEVER[prefix]}", path, "leave it as it is"
            )
    bound = ALLOWED.get(path)
    if bound is None:
        raise PatchRefused(
            f"{path} is not among the keys that may be changed", path, f"these may: {', '.join(sorted(ALLOWED))}"
        )
    if _plain(old) == _plain(new):
        raise PatchRefused(f"{path} has this value already", path, "try something else")
    _check_bound(path, bound, old, new)
    risk: Risk = max(bound.risk, change.risk if change.risk != "N" else "A", key=ORDER.__getitem__)
    if risk == "A" and not policy.science_changes:
        raise PatchRefused(
            f"{path}: {_plain(old)} -> {_plain(new)} changes what is learned",
            path,
            "the operator allows that with `science_changes: true` in <home>/policy.yaml; else start another run",
        )
    return change.model_copy(update={"old": old, "risk": risk})


def _check_bound(path: str, bound: Bound, old: Any, new: Any) -> None:
    if bound.choices and not any(_plain(new) == _plain(choice) for choice in bound.choices):
        shown = ", ".join(_plain(choice) for choice in bound.choices)
        raise PatchRefused(f"{path} may not become {_plain(new)}", path, f"it may become one of: {shown}")
    if bound.low is None and bound.high is None:
        return
    if isinstance(new, bool) or not isinstance(new, int | float):
        raise PatchRefused(f"{path} must be a number, not {_plain(new)}", path, "give a number")
    low, high = bound.low, bound.high
    if isinstance(old, int | float):
        low = max(low or 0, old) if bound.never_below_old else low
        high = min(high if high is not None else old, old) if bound.never_above_old else high
    if (low is not None and new < low) or (high is not None and new > high):
        raise PatchRefused(f"{path} may not become {new:g}", path, f"it must be between {low} and {high}")


def check_invariants(before: Mapping[str, Any], after: Mapping[str, Any], changes: Sequence[Change]) -> None:
    """Raises where more became another than the patch says: of the resolved configurations, defaults and all."""
    own = {change.path for change in changes if change.risk == "A"}
    for path in INVARIANT:
        if path not in own and _plain(value_at(before, path)) != _plain(value_at(after, path)):
            raise PatchRefused(
                f"with this patch {path} would go from {_plain(value_at(before, path))} to "
                f"{_plain(value_at(after, path))}",
                path,
                "change one thing without the other",
            )


def as_change(text: str, settings: Mapping[str, Any]) -> Change:
    """An override `a.b=c` of a caller as a change; its class is the gate's matter."""
    from oxrl_core.config.layers import parse_override

    override = parse_override(text)
    return Change(
        path=override.path, old=value_at(settings, override.path), new=override.value, why="asked for", risk="S"
    )


def as_override(change: Change) -> str:
    """A change as an override."""
    return f"{change.path}={json.dumps(change.new)}"


def settings_of(config_yaml: str, overrides: Sequence[str]) -> tuple[dict[str, Any], OxrlError | None]:
    """The resolved values of a configuration, and why it cannot be loaded.

    Of one that cannot be loaded: its resolved base with the overrides written over it.
    """
    from oxrl_core.config.layers import parse_override
    from oxrl_core.config.load import load_config
    from oxrl_core.config.mappings import set_at
    from oxrl_core.config.yaml_text import read_mapping

    try:
        return load_config(config_yaml, overrides).config.model_dump(mode="json"), None
    except OxrlError as error:
        failure = error
    try:
        settings = load_config(config_yaml).config.model_dump(mode="json")
    except OxrlError:
        settings = dict(read_mapping(config_yaml, "the configuration").mapping)
    for text in overrides:
        try:
            override = parse_override(text)
            set_at(settings, override.path, override.value, text)
        except OxrlError:
            continue  # said by the failure that is returned
    return settings, failure


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
