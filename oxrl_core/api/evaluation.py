"""Evaluating models, and single completions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oxrl_core.api.configs import report_of
from oxrl_core.api.runs import plan_of, refusal
from oxrl_core.api.views import view_of
from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.runs import launch, scoring
from oxrl_core.runs.evaluation import EVALUATE_KIND, EVALUATE_MODULE, EvaluationView, read_evaluation
from oxrl_core.runs.rundir import RUN_FOLDER, RUN_ID_PATTERN, RunDir, oxrl_home
from oxrl_core.runs.scoring import ScoresView
from oxrl_core.runs.views import LaunchResult

DEFAULT_ROWS = 256
_KEPT = ("model", "data", "reward", "rollout")  # what of a run's configuration an evaluation of it takes over
_LOCAL: dict[str, Any] = {"backend": "local"}  # one sampler and no learner: nothing to place


def evaluate_run(
    target: str,
    *,
    dataset: str = "",
    split: str = "",
    reward: str = "",
    limit: int = DEFAULT_ROWS,
    samples: int = 1,
    temperature: float = 0.0,
    step: int = -1,
    overrides: Sequence[str] = (),
    key: str = "",
    dry_run: bool = False,
    home: Path | None = None,
) -> LaunchResult:
    """A run of kind `evaluate`: held-out reward of a run's final model (step -1), of a checkpoint, or of a model.

    `target` is a run, or what model.path takes. Data, reward and lengths are those of the run unless they are named.
    Temperature 0 is greedy, with one completion a prompt; above it `samples` are drawn. See `get_evaluation`.
    """
    from oxrl_core.config.load import load_config

    home = home or oxrl_home()
    parent = _run_of(target, home)
    checkpoint = None if step < 0 else step
    mapping = _base(target, parent, checkpoint)
    _name_data(mapping, dataset, split, limit, parent)
    if reward:
        mapping["reward"] = {"name": reward}
    if temperature <= 0 and samples > 1:
        raise ConfigError("greedy completions of one prompt are all the same", "samples", "set a temperature above 0")
    mapping["rollout"] = {
        **mapping.get("rollout", {}),
        "group_size": max(samples, 2),  # RL's rules want a group; how many are drawn stands in the order
        "temperature": temperature if temperature > 0 else 1.0,
        "record": True,
    }
    loaded = load_config(mapping, overrides)
    order = {
        "of": parent.run_id if parent else target,
        "run_id": parent.run_id if parent else "",
        "step": checkpoint,
        "dataset": ", ".join(f"{one.name}/{one.split}" for one in loaded.config.data.eval),
        "greedy": temperature <= 0,
        "samples": samples,
    }
    report = report_of(loaded, home)
    if dry_run:
        return plan_of(report, EVALUATE_KIND)
    if not report.ok:
        raise refusal(report)
    cwd = parent.spec().get("cwd") if parent else str(Path.cwd())  # paths of the data may be relative
    command = [sys.executable, "-m", EVALUATE_MODULE, "--run-dir", RUN_FOLDER]
    run, created = launch.open_run(home, loaded, EVALUATE_KIND, key, command, {EVALUATE_KIND: order, "cwd": cwd})
    if created or not (run.path / "status.json").exists():
        launch.launch(run)
    return LaunchResult(**view_of(run, run.status()).model_dump(), created=created)


def get_evaluation(run_id: str, *, home: Path | None = None) -> EvaluationView:
    """What came of an evaluation: mean, standard error, accuracy, statuses and samples."""
    return read_evaluation(launch.find_run(home or oxrl_home(), run_id))


def score(
    reward: str,
    completions: Sequence[str],
    *,
    answer: str = "",
    prompt: str = "",
    row: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    timeout_seconds: float = 60.0,
) -> ScoresView:
    """The verdicts of a reward on completions of one prompt, by the code that judges rollouts in training."""
    return scoring.score(reward, completions, answer, prompt, row or {}, params or {}, timeout_seconds)


def _run_of(target: str, home: Path) -> RunDir | None:
    """The run that the target names; None where it names a model."""
    name = target.removeprefix("run:")
    if target.startswith("run:") or RUN_ID_PATTERN.match(name) or name == "latest":
        return launch.find_run(home, name)
    return None


def _base(target: str, parent: RunDir | None, step: int | None) -> dict[str, Any]:
    """The configuration that the evaluation begins with."""
    if parent is None:
        if step is not None:
            raise ConfigError("only a run has checkpoints", "step", "leave it out, or name a run")
        return {"run": {"name": "evaluate", **_LOCAL}, "model": {"path": target}, "data": {}}
    whole = parent.config().model_dump(mode="json")
    mapping = {name: whole[name] for name in _KEPT}
    mapping["run"] = {"name": f"{whole['run']['name'][:70]}-evaluate", "seed": whole["run"]["seed"]}
    if whole["algorithm"]["name"] and mapping["reward"]["name"] == "none":
        mapping["reward"] = {}
    mapping["rollout"] = {
        name: value for name, value in mapping["rollout"].items() if name not in ("dynamic_sampling", "drawn_share")
    } | {"pipeline": 0, "sync_every": 1, "drop_truncated": False}
    if step is None:
        if not (parent.path / "final").is_dir():
            raise NotFoundError(
                f"{parent.run_id} has no final model", "run", "name a step that has a checkpoint, or wait for its end"
            )
        mapping["model"] = {"path": f"run:{parent.run_id}", "precision": whole["model"]["precision"]}
        mapping["model"]["attention"] = whole["model"]["attention"]
        mapping["run"] |= _LOCAL
        mapping["rollout"] |= {"num_workers": 1, "colocate": False}
        return mapping
    if not (parent.checkpoints / f"step_{step:08d}" / "manifest.json").is_file():
        kept = sorted(path.name[5:].lstrip("0") or "0" for path in parent.checkpoints.glob("step_*"))
        raise NotFoundError(
            f"{parent.run_id} has no checkpoint of step {step}", "step", f"it has: {', '.join(kept) or 'none'}"
        )
    mapping["run"]["backend"] = whole["run"]["backend"]
    mapping["train"] = {"num_workers": whole["train"]["num_workers"]}
    mapping["deepspeed"] = whole["deepspeed"]
    return mapping


def _name_data(mapping: dict[str, Any], dataset: str, split: str, limit: int, parent: RunDir | None) -> None:
    data: dict[str, Any] = dict(mapping["data"])
    if dataset:
        chosen: list[dict[str, Any]] = [{"name": dataset, **({"split": split} if split else {})}]
    else:
        given: list[dict[str, Any]] = list(data.get("eval") or [])
        chosen = [dict(one) for one in given]
        if split:
            chosen = [{**one, "split": split} for one in chosen]
    if not chosen:
        raise ConfigError(
            f"{'the run' if parent else 'a model'} names no held-out data", "dataset", "name a dataset and its split"
        )
    data["train"] = data["eval"] = chosen
    mapping["data"] = data
    mapping["train"] = {**mapping.get("train", {}), "steps": 1, "eval_rows": limit}
