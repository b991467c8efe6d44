"""What the demo says about its run: measured numbers, a table, a picture and the page of the docs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import MachineError

if TYPE_CHECKING:
    from rich.console import Console

Answer = dict[str, Any]
MetricRow = dict[str, Any]

# A random policy scores about 0.1 and one that has learned about 0.98: between the bounds lies more than luck.
REWARD_BEFORE_BELOW = 0.35
REWARD_AFTER_ABOVE = 0.8

ENDS_OF_RUN = 10  # steps at each end over which the training reward is averaged
ASCII_BLOCKS = "_.-:=+*#"


@dataclass(frozen=True)
class Measured:
    """What the run's own metrics say, before and after."""

    reward_before: float | None
    reward_after: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    training_reward_first: float | None
    training_reward_last: float | None
    steps: int
    seconds: float
    logprob_gap_max: float | None

    @property
    def learned(self) -> bool:
        """Whether the held-out reward rose from below the lower bound to above the upper one."""
        before, after = self.reward_before, self.reward_after
        return before is not None and after is not None and before < REWARD_BEFORE_BELOW and after > REWARD_AFTER_ABOVE


def measure(rows: Sequence[Mapping[str, Any]], seconds: float) -> Measured:
    """The first and the last value of everything the table shows, from all rows of metrics.jsonl."""

    def values(name: str) -> list[float]:
        return [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]

    def ends(name: str) -> tuple[float | None, float | None]:
        found = values(name)
        # One evaluation is no comparison: without a second one there is no "after".
        return (found[0], found[-1]) if len(found) > 1 else (found[0] if found else None, None)

    def mean(some: list[float]) -> float | None:
        return sum(some) / len(some) if some else None

    reward_before, reward_after = ends("eval/reward")
    accuracy_before, accuracy_after = ends("eval/accuracy")
    rewards, gaps = values("reward/mean"), values("gap/max")
    return Measured(
        reward_before,
        reward_after,
        accuracy_before,
        accuracy_after,
        mean(rewards[:ENDS_OF_RUN]),
        mean(rewards[-ENDS_OF_RUN:]),
        int(max(values("step"), default=0)),
        seconds,
        max(gaps) if gaps else None,
    )


def shown(value: float | None, form: str = ".3f") -> str:
    """The number in the given form, or a dash where nothing was measured."""
    return "-" if value is None else format(value, form)


def print_table(console: Console, measured: Measured, engines: str) -> None:
    """Before and after, as measured."""
    from rich.table import Table

    table = Table(title="Measured on held-out prompts and in training")
    table.add_column("quantity")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    table.add_row("held-out reward", shown(measured.reward_before), shown(measured.reward_after))
    table.add_row("held-out accuracy (all right)", shown(measured.accuracy_before), shown(measured.accuracy_after))
    table.add_row(
        f"training reward (first, last {ENDS_OF_RUN} steps)",
        shown(measured.training_reward_first),
        shown(measured.training_reward_last),
    )
    console.print(table)
    console.print(f"{measured.steps} steps in {measured.seconds:.0f} s with start and end; {engines}", highlight=False)
    console.print(
        f"largest log-prob difference between trainer and sampler: {shown(measured.logprob_gap_max, '.1e')}",
        highlight=False,
    )


def draw_plot(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> Path:
    """The picture's path: training reward of every step and the held-out reward over it."""
    try:
        import matplotlib as mpl
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MachineError("matplotlib is not installed", "plot", "pip install 'oxrl[train]'") from error
    mpl.use("Agg")  # no window, whatever the display
    pyplot: Any = plt  # its own types are half unknown

    def points(name: str) -> tuple[list[float], list[float]]:
        found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        return [float(step) for step, _ in found], [float(value) for _, value in found]

    figure, axes = pyplot.subplots(figsize=(7.2, 3.6), dpi=120, layout="constrained")
    axes.plot(*points("reward/mean"), color="#7aa6d8", linewidth=1.2, label="training reward (mean of a step)")
    axes.plot(*points("eval/reward"), color="#b3261e", linewidth=1.8, marker="o", markersize=5, label="held-out reward")
    accuracy = points("eval/accuracy")
    if accuracy[0]:
        axes.plot(
            *accuracy,
            color="#3a7d44",
            linewidth=1.2,
            marker="s",
            markersize=4,
            linestyle="--",
            label="held-out accuracy",
        )
    axes.set(xlabel="optimizer step", ylabel="reward", ylim=(0, 1.02), title=title)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    partial = path.with_name(f".{path.name}.partial.png")
    figure.savefig(partial)
    pyplot.close(figure)
    partial.replace(path)
    return path


def engine_names(run_path: Path) -> str:
    """The engines as the resolved configuration of the run names them."""
    import yaml

    config = dict(yaml.safe_load((run_path / "config.yaml").read_text(encoding="utf-8")))
    sampler = str(config["rollout"]["engine"])
    if sampler == "auto":
        from importlib.util import find_spec

        sampler = "vllm" if find_spec("vllm") else "transformers"
    backend = {"ray": "Ray", "local": "one process"}.get(str(config["run"]["backend"]), str(config["run"]["backend"]))
    stage = config["deepspeed"]["zero_stage"]
    return f"{backend} + DeepSpeed (ZeRO {stage}) + {({'vllm': 'vLLM'}).get(sampler, sampler)} sampler"


def read_metric_rows(run_path: Path) -> list[MetricRow]:
    """All rows of metrics.jsonl; the tool's answer is thinned out, and a mean over ten steps needs all ten."""
    lines = (run_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [dict(json.loads(line)) for line in lines if line.strip()]


def save_docs(
    folder: Path,
    log: str,
    plot: Path,
    measured: Measured,
    summary: Answer,
    rows: Sequence[Mapping[str, Any]],
    home: Path,
) -> Path:
    """The page docs/demo.md with the log, the picture and the metrics of this very run."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(plot, folder / "demo.png")
    metrics = dict(sorted(dict(summary.get("summary") or {}).items()))
    by_step = {name: [_six_digits(row.get(name)) for row in rows] for name in ("step", *metrics)}
    columns = ",\n".join(f"    {json.dumps(name)}: {json.dumps(values)}" for name, values in by_step.items())
    numbers = json.dumps({"measured": measured.__dict__, "by_step": {}}, indent=2)
    text = numbers.replace('"by_step": {}', f'"by_step": {{\n{columns}\n  }}')  # a line per metric, not per number
    (folder / "demo_metrics.json").write_text(text + "\n", encoding="utf-8")
    # A reader's machine has other folders; the paths of this one would be noise.
    root = Path(sys.executable).parent.parent.parent
    for path, stand_in in ((home, "~/.oxrl"), (root, "/path/to/oxrl")):
        log = log.replace(str(path), stand_in)
    log = "\n".join(line.rstrip() for line in log.splitlines()).strip("\n")
    lines = [
        f"| {name} | {' | '.join(shown(values.get(key), '.4g') for key in ('first', 'last', 'min', 'max'))} |"
        for name, values in metrics.items()
    ]
    page = folder / "demo.md"
    page.write_text(
        "# The demo, as it ran\n\n"
        "Made by `python -m oxrl_core.demo --save-docs docs` from measured values; do not edit.\n\n"
        f"![Reward over steps](demo.png)\n\n"
        f"Held-out reward {shown(measured.reward_before)} -> {shown(measured.reward_after)}, held-out accuracy "
        f"{shown(measured.accuracy_before)} -> {shown(measured.accuracy_after)}, {measured.steps} steps, "
        f"{measured.seconds:.0f} s with start and end.\n\n"
        f"## What it printed\n\n```text\n{log}\n```\n\n"
        "## Metrics of the run\n\nStep by step they are in [demo_metrics.json](demo_metrics.json).\n\n"
        "| metric | first | last | min | max |\n|---|--:|--:|--:|--:|\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    return page


def _six_digits(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
