"""Repeating a step of a run, and going on from one in another way: what that takes, and what came of it.

The state before a step is the newest checkpoint before it, plus the recorded steps between, learned from once more.
Nothing here computes: that is oxrl_core/replay.py, in a run of its own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.runs.records import write_text
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.views import View

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config

REPLAY_KIND = "replay"
RESULT_FILE = "replay.json"
MOST_DIFFERENCES = 50  # that a result lists; the others are counted

# Keys that say what was drawn: with another value there would be other completions, and those are not recorded.
_DRAWN = ("run.seed", "data.", "rollout.", "reward.name", "model.path", "model.revision", "train.prompts_per_step")
_NOT_DRAWN = ("rollout.drop_truncated", "rollout.logprob_gap_limit", "rollout.fingerprint_limit", "rollout.record")
# Keys that say which row comes next in the data stream.
_ROWS = ("run.seed", "data.train", "data.shuffle")
# Keys that the state of a checkpoint depends on.
_STATE = {
    "model.path": "the checkpoint holds the weights of another model",
    "model.revision": "the checkpoint holds the weights of another revision of the model",
    "model.precision": "the weights of the checkpoint have another precision",
    "model.train_towers": "other parameters were trained",
    "model.lora.enabled": "the trained parameters are others",
    "model.lora.rank": "its adapters have another shape",
    "model.lora.target_modules": "its adapters stand at other layers",
    "train.num_workers": "each training rank wrote a share of its own",
    "deepspeed.zero_stage": "the optimizer state is cut into other pieces",
    "algorithm.critic": "the checkpoint holds another critic",
}


class Difference(View):
    """A number of the repeated step that is not the recorded one."""

    step: int
    kind: Literal["metric", "rollout", "state", "weight"]
    name: str
    """The metric, the column of the record, the tensor of the checkpoint or the parameter."""
    where: str = ""
    """The completion and the token, where it is a number of one."""
    recorded: float | str | None = None
    replayed: float | str | None = None
    largest: float | None = None
    """Largest absolute difference, where several numbers differ."""
    count: int = 1
    """Numbers that differ."""


class MetricChange(View):
    """A metric of the step as it was, and as it would have been."""

    name: str
    was: float | None
    would_be: float | None


class WhatIf(View):
    """The step from the same state with other values."""

    overrides: list[str]
    metrics: list[MetricChange]
    """Those that differ."""
    learned_was: int = 0
    learned_would_be: int = 0
    """Completions that the step learned from."""
    largest_weight_change: float | None = None
    """Largest absolute difference between a weight after the step as it was and as it would have been."""


class ReplayView(View):
    """A step repeated: equal bit for bit, or where it differs and by how much."""

    run_id: str
    state: str = ""
    of: str
    """The run whose step it was."""
    step: int
    equal: bool | None = None
    """Whether every number that was compared is the very same; null: not finished."""
    started_from: str = ""
    """The checkpoint, or the initial model."""
    repeated_steps: int = 0
    """Steps that were learned from again, this one included; all of them were compared."""
    compared: dict[str, int] = Field(default_factory=dict[str, int])
    """Numbers that were compared: metrics, values of rollouts, tensors of a checkpoint."""
    not_compared: list[str] = Field(default_factory=list[str])
    """What was recorded and cannot be repeated (evaluations by a sampler), and what was not recorded."""
    num_differences: int = 0
    differences: list[Difference] = Field(default_factory=list[Difference])
    """In the order of the steps; the first says where it began."""
    what_if: WhatIf | None = None
    path: str = ""
    next: str = ""


class Start:
    """Where a replay begins."""

    def __init__(self, step: int, folder: Path | None) -> None:
        self.step = step
        self.folder = folder  # none: the initial model

    @property
    def name(self) -> str:
        return self.folder.name if self.folder is not None else "the initial model"


def start_before(run: RunDir, step: int) -> Start:
    """The newest committed checkpoint at or before a step, else the initial model."""
    steps = {number: folder for number, folder in _checkpoints(run).items() if number <= step}
    return Start(max(steps), steps[max(steps)]) if steps else Start(0, None)


def check_can_repeat(run: RunDir, step: int, *, from_step: int = 1) -> Start:
    """Where a replay up to a step begins; raises where it was not done, or where records on the way are missing."""
    spec = run.spec()
    if spec.get("command") or spec.get("kind") == REPLAY_KIND:
        raise ConfigError(f"{run.run_id} is a run of kind {spec.get('kind')}", "run", "name the run that trained")
    done = max(run.status().step, max(_checkpoints(run), default=0))
    if not from_step <= step <= done:
        raise NotFoundError(
            f"{run.run_id} has no step {step}",
            "step",
            f"it has done {done} steps: name one of {from_step} to {done}" if done else "wait for its first step",
        )
    last = step if from_step == 0 else step - 1
    start, origin = start_before(run, last), spec.get("parent")
    if origin is not None and last < origin["step"]:
        raise NotFoundError(
            f"{run.run_id} begins at step {origin['step']} of {origin['run_id']}", "step", "name that run instead"
        )
    if origin is not None and start.folder is None:  # its first steps did not begin at the initial model
        kept = ", ".join(str(number) for number in sorted(_checkpoints(run))) or "none"
        raise NotFoundError(
            f"no checkpoint of {run.run_id} from before step {step} is left (kept: {kept})",
            str(run.checkpoints),
            "name a later step; next time keep more of them (train.keep_checkpoints)",
        )
    if get_algorithm(run.config().algorithm.name).kind == "rl":
        missing = [n for n in range(start.step + 1, step + 1) if not rollouts_file(run, n).is_file()]
        if missing:
            kept = ", ".join(str(number) for number in sorted(_checkpoints(run))) or "none"
            raise NotFoundError(
                f"the rollouts of {len(missing)} steps on the way from {start.name} to step {step} were not recorded, "
                f"the first of step {missing[0]}",
                str(run.rollouts),
                f"name a step soon after a checkpoint (kept: {kept}); next time record all (rollout.record=true) and "
                "save more often (train.save_every, train.keep_checkpoints)",
            )
    return start


def rollouts_file(run: RunDir, step: int) -> Path:
    """The record of a step's rollouts."""
    return run.rollouts / f"step-{step:08d}.parquet"


def changed_keys(before: Config, after: Config) -> list[str]:
    """Keys whose values differ."""
    from oxrl_core.config.mappings import flatten

    old, new = flatten(before.model_dump(mode="json")), flatten(after.model_dump(mode="json"))
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def check_what_if(before: Config, after: Config) -> None:
    """Raises where an override would have changed what was drawn, or what the state can be loaded into."""
    check_state(before, after)
    for key in changed_keys(before, after):
        if key.startswith(_DRAWN) and key not in _NOT_DRAWN and get_algorithm(before.algorithm.name).kind == "rl":
            raise ConfigError(
                "with another value there would have been other completions, and those are not recorded",
                key,
                "fork the run before that step instead: oxrl fork RUN --step N",
            )


def check_state(before: Config, after: Config) -> None:
    """Raises where an override makes the checkpoints of the run unusable, with the reason."""
    fork_anew = "keep it as it was, or start a new run from the final model (model.path=run:<id>)"
    old, new = get_algorithm(before.algorithm.name), get_algorithm(after.algorithm.name)
    if old.kind != new.kind or (old.signals == "ScoredPairs") != (new.signals == "ScoredPairs"):
        raise ConfigError(f"{new.name} trains something else than {old.name}", "algorithm.name", fork_anew)
    if (before.algorithm.advantage == "gae") != (after.algorithm.advantage == "gae"):
        raise ConfigError("the checkpoint has a critic or needs none", "algorithm.advantage", fork_anew)
    for key in changed_keys(before, after):
        for name, reason in _STATE.items():
            if key == name or key.startswith(f"{name}."):
                raise ConfigError(reason, key, fork_anew)


def takes_other_rows(before: Config, after: Config) -> bool:
    """Whether the data stream is another one, so that its cursor means nothing."""
    return any(key.startswith(_ROWS) for key in changed_keys(before, after))


def draws_otherwise(before: Config, after: Config) -> bool:
    """Whether completions that wait for their turn in a checkpoint would be other ones."""
    return any(key.startswith(_DRAWN) and key not in _NOT_DRAWN for key in changed_keys(before, after))


def inherit(parent: RunDir, child: RunDir, start: Start, step: int) -> None:
    """Gives a fork what it goes on from: checkpoint, initial model, reference cache, metrics up to the step.

    Files are hard-linked where the disk allows: nobody writes into them any more, and the parent may remove its own.
    """
    if start.folder is not None and not (child.checkpoints / start.folder.name).exists():
        unfinished = child.checkpoints / f".tmp-{start.step}-inherited"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a launcher that died here
        _link_tree(start.folder, unfinished)
        unfinished.rename(child.checkpoints / start.folder.name)
    inherit_model(parent, child)
    if not (child.path / "metrics.jsonl").exists():
        rows = [json.dumps(row) + "\n" for row in parent.metrics() if row["step"] <= step]
        write_text(child.path / "metrics.jsonl", "".join(rows))


def inherit_model(parent: RunDir, child: RunDir) -> None:
    """The initial model that the parent made, and what its reference said of its rows, where there are such."""
    if (parent.path / "model").is_dir() and not (child.path / "model").exists():
        _link_tree(parent.path / "model", child.path / "model")
    if (parent.path / "reference.json").is_file():
        shutil.copy2(parent.path / "reference.json", child.path / "reference.json")


def read_result(run: RunDir, record: Mapping[str, Any] | None, state: str) -> ReplayView:
    """The result of a replay run, or that there is none yet."""
    order = run.spec()[REPLAY_KIND]
    if record is not None:
        return ReplayView.model_validate({**record, "state": state, "path": str(run.path)})
    view = ReplayView(run_id=run.run_id, state=state, of=order["run_id"], step=order["step"], path=str(run.path))
    return view.model_copy(update={"next": "get_run"})


def _checkpoints(run: RunDir) -> dict[int, Path]:
    """Committed checkpoints by step. Their files are not looked at."""
    if not run.checkpoints.is_dir():
        return {}
    folders = [path for path in run.checkpoints.glob("step_*") if (path / "manifest.json").is_file()]
    return {int(path.name.removeprefix("step_")): path for path in folders}


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target)
