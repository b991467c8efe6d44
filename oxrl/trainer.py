"""`Trainer(model=...).train(task=...)`: a configuration from a model and a task, launched as a run and followed."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from oxrl_core.errors import ConfigError, DataError, RunFailure

if TYPE_CHECKING:
    from oxrl_core.runs.views import RunView

# Tasks that are a recipe already, whatever the model.
RECIPES = {"reverse3": "demo", "reverse4": "reverse4", "copy3": "copy3"}
MATH: dict[str, Any] = {
    "data": {
        "train": "gsm8k",
        "eval": [{"name": "gsm8k", "split": "test"}],
        "system_prompt": "Reason step by step. Write the final answer alone on the last line, after ####.",
    },
    "algorithm": {"name": "sgrpo"},
    "reward": {"name": "gsm8k"},
}
TASKS = ("math", *RECIPES)


def task_config(task: str) -> dict[str, Any]:
    """What the name of a task stands for, before the machine and the caller have their say."""
    if task == "math":
        return MATH
    from oxrl_core.config.registry import registry_folder
    from oxrl_core.config.sources import read_source

    document, *_ = read_source(RECIPES[task], registry_folder())
    return {name: section for name, section in document.mapping.items() if name not in ("run", "model")}


@dataclass(frozen=True)
class RunResult:
    """A run as its caller sees it."""

    run_id: str
    state: str
    path: Path
    """The run directory."""
    metrics: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    """Newest value of each metric."""
    model_path: Path | None = None
    """Folder of the final model (Hugging Face layout); None before the run has finished."""

    def history(self, *names: str) -> list[dict[str, float | None]]:
        """Rows of metrics by step; of the named metrics, or of all."""
        from oxrl_core import api

        view = api.get_metrics(str(self.run_id), names, max_points=100_000)
        return [dict(zip(view.columns, row, strict=True)) for row in view.rows]


class Trainer:
    """Trains one model. Keyword arguments are sections of the configuration: `train={"lr": 1e-5}`.

    `model` is a hub id, a folder, `miniature:chars`, or the `model` section itself.
    """

    def __init__(self, model: str | Mapping[str, Any], **config: Any) -> None:
        given = {"path": model} if isinstance(model, str) else dict(model)
        self.config: dict[str, Any] = {"model": given, **_sections(config)}

    def train(self, task: str = "math", *, wait: bool = True, **config: Any) -> RunResult:
        """The run of a task: `math`, `reverse3`, ..., a built-in dataset, a file of rows, or `hub:<id>`.

        It follows the run until it ends (an interrupt stops it) and raises RunFailure if it fails; with `wait=False`
        it returns as soon as the run is launched.
        """
        import yaml

        from oxrl_core import api
        from oxrl_core.cli.render import Format, Output, resolve_format
        from oxrl_core.cli.watch import follow_run

        launched = api.launch_run(yaml.safe_dump(self.config_for(task, **config), sort_keys=False))
        out = Output(resolve_format(Format.auto))
        out.note(f"run {launched.run_id} ({launched.path})")
        if not wait:
            return _result(launched)
        view = follow_run(out, launched.run_id, on_interrupt="stop")
        if view.state in ("failed", "lost"):
            error = view.error
            raise RunFailure(
                error.what if error else f"the run {view.state}",
                f"run {view.run_id}",
                (error.next if error else "") or f"oxrl run logs {view.run_id}",
            )
        return _result(view)

    def config_for(self, task: str = "math", **config: Any) -> dict[str, Any]:
        """The configuration that `train` would launch: the task's values, this machine's, then the caller's."""
        from oxrl_core.algorithms.base import get_algorithm
        from oxrl_core.config.machine import find_gpus

        said = _merged(self.config, _sections(config))
        base = task_config(task) if task in TASKS else _task_of_rows(task, said)
        merged = _merged(base, said)
        merged.setdefault("run", {}).setdefault("name", run_name(task, str(merged["model"].get("path", ""))))
        kind = get_algorithm(str(merged["algorithm"]["name"])).kind
        return _merged(machine_layer(kind, len(find_gpus())), merged)


def _sections(config: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of a configuration; `algorithm="sft"` and `reward="gsm8k"` are short for their names."""
    sections: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            sections[name] = copy.deepcopy(dict(cast("Mapping[str, Any]", value)))
        elif name in ("algorithm", "reward") and isinstance(value, str):
            sections[name] = {"name": value}
        elif name == "data":
            sections[name] = {"train": value}
        else:
            raise ConfigError(
                f"{name} = {value!r} is no section of a configuration",
                f"Trainer({name}=...)",
                'sections are mappings, as train={"lr": 1e-5}; see: oxrl config schema',
            )
    return sections


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of two layers; what stands above wins, section by section."""
    result = copy.deepcopy(dict(below))
    for name, value in above.items():
        lower = result.get(name)
        if isinstance(value, Mapping) and isinstance(lower, Mapping):
            result[name] = _merged(cast("Mapping[str, Any]", lower), cast("Mapping[str, Any]", value))
        else:
            result[name] = copy.deepcopy(cast("Any", value))
    return result


def _task_of_rows(task: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """Data and algorithm for a dataset: RL where its rows hold an answer to check, else supervised training."""
    algorithm = str(dict(said.get("algorithm") or {}).get("name") or "")
    data = {"train": task}
    if algorithm:
        return {"data": data, "algorithm": {"name": algorithm}}
    from oxrl_core.config.schema import DatasetConfig
    from oxrl_core.datasets.base import load_rows

    row = load_rows(DatasetConfig(name=task, limit=1), 0)[0]
    if "answer" in row:
        return {"data": data, "algorithm": {"name": "sgrpo"}}
    if "completion" in row:
        return {"data": data, "algorithm": {"name": "sft"}}
    raise DataError(
        "its rows hold neither an answer to check nor a completion to imitate",
        task,
        "add a column `answer` (for RL) or `completion` (for SFT)",
    )


def machine_layer(kind: str, num_gpus: int) -> dict[str, Any]:
    """Workers for the GPUs of this machine; without one, the schema's defaults (one worker each) are right."""
    if num_gpus == 0:
        return {}
    if kind == "sl":
        return {"train": {"num_workers": num_gpus}}
    if num_gpus == 1:
        return {"rollout": {"colocate": True}}
    # Generation and training take about as long as each other; the odd GPU goes to the sampler.
    return {"train": {"num_workers": num_gpus // 2}, "rollout": {"num_workers": num_gpus - num_gpus // 2}}


def run_name(task: str, model: str) -> str:
    """A name for the run out of task and model, in the letters that a run's name may have."""
    short = Path(task.removeprefix("hub:")).stem if "/" in task or task.startswith("hub:") else task
    text = f"{short}-{model.rsplit('/', 1)[-1]}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:60] or "run"


def _result(view: RunView) -> RunResult:
    model = Path(view.model) if view.model else None
    return RunResult(view.run_id, view.state, Path(view.path), dict(view.metrics), model)
