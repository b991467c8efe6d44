"""The model card of a trained model: what it is, how it was made, how it did, and how to load it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import yaml

from oxrl_core.algorithms.base import Algorithm, get_algorithm
from oxrl_core.config.load import config_to_yaml
from oxrl_core.config.registry import model_entry
from oxrl_core.config.schema import Config
from oxrl_core.redact import Redactor
from oxrl_core.runs.records import read_json, read_lines
from oxrl_core.runs.rundir import RunDir

PACKAGES = ("oxrl", "torch", "transformers", "deepspeed", "peft", "vllm")
METRICS = ("eval/reward", "eval/accuracy", "eval/loss", "reward/mean", "loss", "kl/ref", "entropy", "completion/length")
LICENSE = re.compile(r"^license:\s*[\"']?([\w.-]+)[\"']?\s*$", re.MULTILINE)


def model_card(run: RunDir, base_folder: Path | None = None) -> str:
    """The card of a run's model as Markdown, with the front matter that the hub reads.

    `base_folder` is where the model that training started from lies: its own card knows the licence best.
    """
    config, algorithm = run.config(), get_algorithm(run.config().algorithm.name)
    base, license_name = _base(config), _license(config.model.path, base_folder)
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if algorithm.signals == "ScoredPairs" else "text-generation",
        "base_model": base,
        "license": license_name,
        "datasets": [one.name.removeprefix("hub:") for one in config.data.train if one.name.startswith("hub:")],
        "tags": ["oxrl", algorithm.name, *(["lora"] if config.model.lora.enabled else [])],
    }
    parts = [
        f"# {config.run.name}",
        _made_of(config, algorithm, license_name),
        "## How it did",
        _metrics_table(run),
        "## How to load it",
        _how_to_load(config, algorithm),
        "## How it was made",
        _facts(run, config, algorithm),
        "Versions: " + ", ".join(f"{name} {number}" for name, number in _versions().items()) + ".",
        f"<details><summary>Configuration</summary>\n\n```yaml\n{_shown(config)}\n```\n\n</details>",
    ]
    text = f"---\n{_front_matter(front)}---\n\n" + "\n\n".join(parts) + "\n"
    return Redactor.of_this_machine(os.environ).without_own(text)


def _front_matter(facts: Mapping[str, Any]) -> str:
    """YAML whose values are JSON, which YAML reads; what is unknown is left out."""
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in facts.items() if value)


def _base(config: Config) -> str | None:
    """The hub id of the base model, where it has one."""
    path = config.model.path
    if path.startswith(("miniature:", "run:", "/", ".", "~")) or Path(path).expanduser().is_dir():
        return None
    return path


def _license(path: str, base_folder: Path | None) -> str | None:
    """The licence of the base model: from its own card, else from the registry; none where neither says it."""
    for name in ("README.md", "MODEL_CARD.md"):
        card = base_folder / name if base_folder is not None else None
        if card is not None and card.is_file():
            found = LICENSE.search(card.read_text(encoding="utf-8", errors="replace")[:10_000])
            if found:
                return found[1]
    entry = model_entry(path)
    return str(entry[1]["license"]) if entry and entry[1].get("license") else None


def _made_of(config: Config, algorithm: Algorithm, license_name: str | None) -> str:
    base = _base(config) or Path(config.model.path).name
    paper = f" ({algorithm.paper})" if algorithm.paper else ""
    adapters = f", as LoRA adapters of rank {config.model.lora.rank}, merged here" if config.model.lora.enabled else ""
    terms = (
        f"The base model's licence is `{license_name}`; it holds for this model too."
        if license_name
        else "The licence of the base model is not known here: look it up before you share this model."
    )
    return f"`{base}` trained with `{algorithm.name}`{paper}{adapters} by oxRL. {terms}"


def _facts(run: RunDir, config: Config, algorithm: Algorithm) -> str:
    data = ", ".join(f"`{_without_folders(one.name)}` ({one.split})" for one in config.data.train)
    held_out = ", ".join(f"`{_without_folders(one.name)}` ({one.split})" for one in config.data.eval) or "none"
    progress = read_json(run.path / "progress.json") or {}
    rows = [
        ("Run", f"`{run.run_id}`, configuration `{run.spec().get('config_hash', '')}`, seed {config.run.seed}"),
        ("Algorithm", f"`{algorithm.name}`" + (f", {algorithm.paper}" if algorithm.paper else "")),
        ("Training data", data),
        ("Held-out data", held_out),
        ("Steps", f"{progress.get('step', '?')} of {progress.get('total_steps', '?')}"),
    ]
    if algorithm.kind == "rl":
        rows.append(("Reward", f"`{config.reward.name}`"))
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _metrics_table(run: RunDir) -> str:
    """First and last value of what was measured."""
    rows = read_lines(run.path / "metrics.jsonl")
    lines: list[str] = []
    for name in METRICS:
        values = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        if values:
            (first_step, first), (last_step, last) = values[0], values[-1]
            lines.append(f"| `{name}` | {first:.4g} (step {first_step}) | {last:.4g} (step {last_step}) |")
    if not lines:
        return "Nothing was measured."
    return "| metric | first | last |\n|---|---|---|\n" + "\n".join(lines)


def _how_to_load(config: Config, algorithm: Algorithm) -> str:
    kind = "AutoModelForSequenceClassification" if algorithm.signals == "ScoredPairs" else "AutoModelForCausalLM"
    text = (
        "```python\n"
        f"from transformers import AutoTokenizer, {kind}\n\n"
        'folder = "."  # this folder, or the name of this repository\n'
        f"model = {kind}.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "```\n"
    )
    if algorithm.signals != "ScoredPairs":
        text += "\nvLLM serves the same folder: `vllm serve FOLDER`.\n"
    if config.model.lora.enabled:
        text += (
            "\nThe adapter alone, for the base model: `peft.PeftModel.from_pretrained(base, FOLDER + '/adapter')`; "
            "`oxrl merge FOLDER/adapter --base BASE --out OUT` merges it."
        )
    return text.strip()


def _shown(config: Config) -> str:
    """The configuration without secrets and without the folders of this machine."""
    plain = _without_folders(yaml.safe_load(config_to_yaml(config)))
    return (
        Redactor.of_this_machine(os.environ).masked(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)).strip()
    )


def _without_folders(value: Any) -> Any:
    """The value with every absolute path cut down to its last name: the others say too much about a machine."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in cast("list[Any]", value)]
    is_path = isinstance(value, str) and value.startswith(("/", "~"))
    return Path(cast("str", value)).name if is_path else value


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
