"""Writes docs/config.md from the schema; with --check, exits 1 where the page is not what the schema says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from oxrl_core.algorithms.base import all_algorithms  # noqa: E402  (the path comes first)
from oxrl_core.config.dialect_keys import DROPS, REFUSALS, RENAMES  # noqa: E402
from oxrl_core.config.presets import BY_LESSON, BY_SIGNALS, LORA_LR_FACTOR, PRESETS  # noqa: E402
from oxrl_core.config.schema import Config, DatasetConfig  # noqa: E402
from oxrl_core.config.sources import list_recipes  # noqa: E402
from oxrl_core.datasets.base import all_datasets  # noqa: E402
from scripts.pages import write_or_check  # noqa: E402

PAGE = ROOT / "docs" / "config.md"

HEAD = """# Configuration

<!-- Written by `python scripts/config_docs.py` from oxrl_core/config/schema.py; do not edit. -->

A configuration is a YAML file that says what differs from the defaults. Only `run.name`, `model.path` and `data.train`
have none. Values come from five layers, each over the one before it:

1. the defaults below,
2. the preset of the algorithm,
3. the model's entry in `registry/models`,
4. your file (or a recipe, by its name),
5. overrides on the command line: `train.lr=1e-5`, `data.train.0.ratio=2`, `data.train=reverse3`.

`oxrl config explain FILE` shows every value with its layer and spells out the arithmetic of a step;
`oxrl config validate FILE` checks it, and what it needs, before anything is loaded. Unknown keys are refused.

```yaml
run: {name: demo}
model: {path: "miniature:chars"}
data: {train: reverse3}
```
"""


LEARNS_FROM = {
    "examples": "completions of the data",
    "documents": "texts of the data",
    "pairs": "pairs of the data",
    "labeled": "labeled completions of the data",
    "advantages": "drawn completions, judged and compared",
    "kept": "drawn completions that are good enough",
    "best_and_worst": "the best and the worst drawn completion",
    "self_play": "completions of the data against drawn ones",
    "mixed": "completions of the data and drawn ones",
}
LOOKS_AT = {
    "Pairs": "pairs of the data, without a reference",
    "ScoredPairs": "pairs of the data, as a reward model",
    "Distributions": "completions of the data, with a teacher",
}


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD, "## Recipes\n\n| Name | What |\n|---|---|\n"]
    recipes = list_recipes(ROOT / "registry")
    parts += [f"| `{recipe.name}` | {recipe.summary} |\n" for recipe in recipes if not recipe.group]
    others = ", ".join(f"`{recipe.name}`" for recipe in recipes if recipe.group)
    parts.append(
        f"\nAnd one for each contributed loss ([algorithms.md](algorithms.md#contributed-losses)): {others}.\n"
    )
    for name, info in Config.model_fields.items():
        section: Any = info.annotation
        parts.append(f"\n## `{name}`\n\n{info.description}\n\n{table(section, f'{name}.')}")
        if name == "data":
            parts.append(
                "\n### Each entry of `data.train` and `data.eval`\n\n"
                "A name or path alone is an entry with its defaults.\n\n"
            )
            parts.append(table(DatasetConfig, ""))
            parts.append(datasets())
        if name == "algorithm":
            parts.append(parameters())
    parts += [presets(), dialect()]
    return "".join(parts)


def table(section: type[BaseModel], prefix: str) -> str:
    """One row per field; the fields of a section inside are rows as well."""
    rows = "| Key | Type | Default | Meaning |\n|---|---|---|---|\n"
    for name, info in section.model_fields.items():
        annotation: Any = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            rows += table(annotation, f"{prefix}{name}.").split("\n", 2)[2]
            continue
        default = "required" if info.default is PydanticUndefined else f"`{plain(info.default)}`"
        kind, meaning = cell(words(annotation, info.metadata)), cell(info.description or "")
        rows += f"| `{prefix}{name}` | {kind} | {default} | {meaning} |\n"
    return rows


def words(annotation: Any, metadata: list[Any]) -> str:
    """A type as a reader of YAML would say it."""
    if annotation is None or annotation is type(None):
        return "null"
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        return words(annotation.__origin__, list(annotation.__metadata__[0].metadata))
    if origin is tuple:
        inner = [argument for argument in get_args(annotation) if argument is not Ellipsis]
        return f"list of {words(inner[0], [])}" if Ellipsis in get_args(annotation) else f"{len(inner)} numbers"
    if origin is not None:
        parts = [words(argument, metadata) for argument in get_args(annotation)]
        return " or ".join(dict.fromkeys(parts))
    if annotation is DatasetConfig:
        return "datasets"
    name = {bool: "true or false", int: "whole number", float: "number", str: "text"}.get(annotation, str(annotation))
    return name + bounds(metadata) if annotation in (int, float) else name


def bounds(metadata: list[Any]) -> str:
    """The range of a number, as `> 0` or `0 to 1`."""
    found = {key: getattr(item, key) for item in metadata for key in ("gt", "ge", "lt", "le") if hasattr(item, key)}
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return "".join(f" {signs[key]} {value}" for key, value in found.items() if value is not None)


def plain(value: Any) -> str:
    """A default as YAML shows it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(plain(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def cell(text: str) -> str:
    """Text that does not break out of its table cell."""
    return text.replace("|", "\\|")


def datasets() -> str:
    """What each built-in dataset is, where it comes from, and what an entry may set of it."""
    rows = (
        "\n### Built-in datasets\n\nTheir parameters stand in the entry: "
        "`data: {train: [{name: math, levels: [4, 5]}]}`. A local copy of a dataset of the hub (a clone of its "
        "repository, or files\ncalled after the split) is read where the variable names its folder.\n\n"
        "| Dataset | Splits | Parameters | From | What |\n|---|---|---|---|---|\n"
    )
    for name, entry in all_datasets().items():
        known = entry.parameters
        defaults = [f"`{key}` = {plain(value)}" for key, value in known.defaults.items()]
        takes = ", ".join([*(f"`{key}` (required)" for key in known.required), *defaults]) or "none"
        source = f"`{entry.hub_id}`, or `{entry.folder_variable}`" if entry.hub_id else "made on the spot"
        rows += f"| `{name}` | {', '.join(entry.splits)} | {takes} | {source} | {cell(entry.summary)} |\n"
    return rows


def parameters() -> str:
    """What each loss takes of its own, below `algorithm:`."""
    rows = (
        "\n### Parameters of the losses\n\nThey stand below `algorithm:` beside the switches above.\n\n"
        "| Algorithm | Learns from | Parameters | What |\n|---|---|---|---|\n"
    )
    for name, algorithm in all_algorithms().items():
        takes = ", ".join(f"`{key}` = {plain(value)}" for key, value in algorithm.params.items()) or "none"
        rows += f"| `{name}` | {LEARNS_FROM[algorithm.lesson]} | {takes} | {cell(algorithm.summary)} |\n"
    return rows


def presets() -> str:
    """What each preset sets, and why."""
    text = "\n## Presets\n\nAn algorithm without a preset of its own takes that of its kind:\n\n"
    text += "| Learns from | Preset |\n|---|---|\n"
    text += "".join(f"| {LEARNS_FROM[lesson]} | `{preset.name}` |\n" for lesson, preset in BY_LESSON.items())
    text += "".join(f"| {LOOKS_AT[signals]} | `{preset.name}` |\n" for signals, preset in BY_SIGNALS.items())
    text += f"\nWith LoRA the learning rate of the preset is {LORA_LR_FACTOR} times as high.\n"
    for name, preset in PRESETS.items():
        text += f"\n### `{name}`\n\n| Key | Value | Why |\n|---|---|---|\n"
        text += "".join(f"| `{c.key}` | `{plain(c.value)}` | {cell(c.reason)} |\n" for c in preset.choices)
    return text


def dialect() -> str:
    """How keys of the seeds' dialect are read."""
    text = (
        "\n## The older dialect\n\nA file in the seeds' dialect loads; each translated key leaves a note. "
        "Epochs x steps per epoch become\n`train.steps`; rows per GPU x accumulation x GPUs become "
        "`train.prompts_per_step` (divided by the group size) or\n`train.rows_per_step`; `data.train_dnames`, "
        "`train_ratios`, `train_files_path` and `val_files_path` become entries of\n`data.train` and `data.eval`.\n\n"
        "| Old key | Now | Why |\n|---|---|---|\n"
    )
    text += "".join(f"| `{old}` | `{rule.new}` | {cell(rule.reason)} |\n" for old, rule in RENAMES.items())
    text += "".join(f"| `{old}` | dropped | {cell(reason)} |\n" for old, reason in DROPS.items())
    for old, rule in REFUSALS.items():
        harmless = " or ".join(f"`{plain(value)}`" for value in rule.harmless if value != "")
        text += f"| `{old}` | dropped if {harmless}, else refused | {cell(rule.reason)} |\n"
    return text


def main(arguments: list[str]) -> int:
    """0 where the page is written or current, 1 where --check finds it stale."""
    text = page()
    return write_or_check(PAGE, text, check="--check" in arguments, command="python scripts/config_docs.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
