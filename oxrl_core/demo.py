"""`make demo`: an MCP client that does what an agent would, shows it, and believes only what was measured.

It starts the real `oxrl-mcp`, lists its tools, launches the recipe through `launch_run`, follows it with `watch_run` and
compares the held-out evaluation before the first step with the one after the last. Exit code 0 means that it learned.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from oxrl_core.agent_clients import client_settings, server_command
from oxrl_core.errors import MachineError, OxrlError, RunFailure

if TYPE_CHECKING:
    from mcp import Client
    from rich.console import Console
    from rich.progress import Progress

Answer = dict[str, Any]
MetricRow = dict[str, float]

# A random policy scores about 0.13 and one that has learned about 0.97; these bounds leave room for neither luck nor doubt.
REWARD_BEFORE_BELOW = 0.35
REWARD_AFTER_ABOVE = 0.8

FINAL_STATES = ("finished", "failed", "stopped", "lost", "orphaned")
ENDS_OF_RUN = 10  # steps at each end over which the training reward is averaged
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 5.0
WATCH_SECONDS = 20.0
BLOCKS = "▁▂▃▄▅▆▇█"
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


def sparkline(values: Sequence[float], width: int = 40, *, blocks: str = BLOCKS) -> str:
    """The values as a line of at most `width` blocks; the lowest block is 0 and the highest 1, so lines compare."""
    if not values:
        return ""
    width = min(width, len(values))
    bins = [values[len(values) * i // width : len(values) * (i + 1) // width] for i in range(width)]
    means = [sum(one) / len(one) for one in bins]
    return "".join(blocks[min(len(blocks) - 1, max(0, int(value * len(blocks))))] for value in means)


def shown(value: float | None, form: str = ".3f") -> str:
    """The number in the given form, or a dash where nothing was measured."""
    return "-" if value is None else format(value, form)


# ------------------------------------------------------------------------------------------------- talking to the server
class ToolRefusal(OxrlError):
    """A tool answered with an error; it carries the server's own words."""


class AgentClient:
    """The demo's side of the protocol: tool calls in, plain dictionaries out."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def tools(self) -> list[str]:
        """The names of the tools that the server offers."""
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def call(self, name: str, **arguments: Any) -> Answer:
        """The tool's structured answer; its error as an exception."""
        result = await self._client.call_tool(name, arguments, read_timeout_seconds=120)
        if not result.is_error:
            return dict(result.structured_content or {})
        text = next((block.text for block in result.content if block.type == "text"), "")
        try:
            error = dict(json.loads(text))
        except ValueError:
            error = {"what": text}
        raise ToolRefusal(str(error.get("what", text)), str(error.get("where") or name), str(error.get("next", "")))


@asynccontextmanager
async def connected(command: list[str], home: Path, log: TextIO) -> AsyncIterator[AgentClient]:
    """A session with a server process of our own, which ends with the block; runs that it launched go on."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.types import Implementation

    server = StdioServerParameters(command=command[0], args=command[1:], env={**os.environ, "OXRL_HOME": str(home)})
    information = Implementation(name="oxrl-demo", version="1")
    async with Client(stdio_client(server, errlog=log), client_info=information, read_timeout_seconds=120) as client:
        yield AgentClient(client)


# ------------------------------------------------------------------------------------------------------------- following
class PlainView:
    """A line every few seconds: for pipes, logs and agents."""

    def __init__(self, console: Console, blocks: str) -> None:
        self._console = console
        self._blocks = blocks
        self._last_line = float("-inf")
        self._last_phase = ""

    def show(self, view: Answer, rewards: Sequence[float], seconds: float) -> None:
        """Prints a line when the phase has changed or the last line is old enough."""
        phase = str(view.get("phase") or view.get("state"))
        if phase == self._last_phase and seconds - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line, self._last_phase = seconds, phase
        reward = f"reward {rewards[-1]:.2f} {sparkline(rewards, 24, blocks=self._blocks)}" if rewards else ""
        line = f"  {seconds:4.0f} s  {phase:<12} step {view.get('step', 0):>3}/{view.get('total_steps') or '?'}  {reward}"
        self._console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to put away."""


class LiveView:
    """A progress bar with the reward's sparkline, redrawn in place."""

    def __init__(self, console: Console, blocks: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._blocks = blocks
        self._width = max(8, min(30, console.width - 52))
        self._progress: Progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=max(8, min(20, console.width - 60))),
            TextColumn("{task.fields[steps]} {task.fields[left]:<9}"),
            TextColumn("{task.fields[reward]}"),
            console=console,
            refresh_per_second=4,
            transient=False,
        )
        self._task = self._progress.add_task("starting", total=None, steps="", left="", reward="")
        self._progress.start()

    def show(self, view: Answer, rewards: Sequence[float], seconds: float) -> None:
        """Redraws the bar."""
        total, left = view.get("total_steps"), view.get("eta_seconds")
        self._progress.update(
            self._task,
            description=str(view.get("phase") or view.get("state")),
            total=total or None,
            completed=view.get("step", 0),
            steps=f"{view.get('step', 0)}/{total}" if total else f"{seconds:.0f} s",
            left=f"{left:.0f} s left" if isinstance(left, int | float) else "",
            reward=f"reward {rewards[-1]:.2f} {sparkline(rewards, self._width, blocks=self._blocks)}" if rewards else "",
        )

    def close(self) -> None:
        """Leaves the last state of the bar on the screen."""
        self._progress.stop()


async def follow(
    agent: AgentClient, launched: Answer, view_on: PlainView | LiveView, interrupted: asyncio.Event, deadline_seconds: float
) -> Answer:
    """The run's last view. An interrupt or a passed deadline stops the run through the server first."""
    run_id = str(launched["run_id"])
    view, rewards, started = launched, list[float](), time.monotonic()
    last_step = -1
    while view.get("state") not in FINAL_STATES:
        looked = time.monotonic()
        if interrupted.is_set():
            return await agent.call("stop_run", run_id=run_id, reason="interrupted from the keyboard")
        if looked - started > deadline_seconds:
            stopped = await agent.call("stop_run", run_id=run_id, reason="the demo's time was over")
            raise RunFailure(
                f"the run was stopped after {deadline_seconds:.0f} s at step {view.get('step', 0)}/{view.get('total_steps')}",
                str(stopped.get("path", run_id)),
                "look at its logs, or give it more time with --timeout",
            )
        watching = asyncio.ensure_future(
            agent.call("watch_run", run_id=run_id, until="progress", wait_seconds=WATCH_SECONDS, cursor=str(view.get("cursor") or ""))
        )
        interrupt = asyncio.ensure_future(interrupted.wait())
        await asyncio.wait({watching, interrupt}, return_when=asyncio.FIRST_COMPLETED)
        interrupt.cancel()
        if not watching.done():
            watching.cancel()
            continue
        view = watching.result()
        step, reward = int(view.get("step") or 0), dict(view.get("metrics") or {}).get("reward/mean")
        if isinstance(reward, int | float) and step != last_step:
            rewards.append(float(reward))
            last_step = step
        view_on.show(view, rewards, looked - started)
        # Steps come faster than anyone reads; between two looks the run has the processor to itself.
        await asyncio.sleep(max(0.0, SECONDS_BETWEEN_LOOKS - (time.monotonic() - looked)))
    return view


# --------------------------------------------------------------------------------------------------------------- the show
def print_machine(console: Console, report: Answer) -> None:
    """A line about this machine, and one per item that is missing."""
    items = list[Answer](report.get("items") or [])
    good = [f"{item['name']} {item.get('value', '')}".strip() for item in items if item.get("ok")]
    console.print(f"[bold]machine[/]  {len(good)} of {len(items)} checks passed: " + ", ".join(good[:6]), highlight=False)
    for item in items:
        if not item.get("ok") and item.get("needed"):
            console.print(f"  [red]missing[/] {item['name']}: {item.get('value', '')}; fix: {item.get('fix', '')}", highlight=False)


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
        f"training reward (first, last {ENDS_OF_RUN} steps)", shown(measured.training_reward_first), shown(measured.training_reward_last)
    )
    console.print(table)
    console.print(
        f"{measured.steps} steps in {measured.seconds:.0f} s; largest log-prob difference between trainer and sampler "
        f"{shown(measured.logprob_gap_max, '.1e')}; engines: {engines}",
        highlight=False,
    )


def print_settings(console: Console, home: Path) -> None:
    """The JSON that gives an agent the same tools."""
    from oxrl_core.runs.rundir import oxrl_home

    environment = {} if home == oxrl_home() and "OXRL_HOME" not in os.environ else {"OXRL_HOME": str(home)}
    console.print("\nGive your agent the same tools:")
    for settings in client_settings(server_command(), environment):
        console.print(f"[bold]{settings.client}[/], {settings.file}:", highlight=False)
        # Not through rich's wrapping: a broken line would break the JSON that is copied.
        console.print(settings.json, highlight=False, markup=False, soft_wrap=True)


def draw_plot(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> Path:
    """The picture's path: training reward of every step and the held-out reward over it."""
    try:
        import matplotlib
    except ImportError as error:
        raise MachineError("matplotlib is not installed", "plot", "pip install 'oxrl[train]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    def points(name: str) -> tuple[list[float], list[float]]:
        found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        return [float(step) for step, _ in found], [float(value) for _, value in found]

    figure, axes = pyplot.subplots(figsize=(7.2, 3.6), dpi=120, layout="constrained")
    axes.plot(*points("reward/mean"), color="#7aa6d8", linewidth=1.2, label="training reward (mean of a step)")
    axes.plot(*points("eval/reward"), color="#b3261e", linewidth=1.8, marker="o", markersize=5, label="held-out reward")
    accuracy = points("eval/accuracy")
    if accuracy[0]:
        axes.plot(*accuracy, color="#3a7d44", linewidth=1.2, marker="s", markersize=4, linestyle="--", label="held-out accuracy")
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
    """All rows of the run's metrics.jsonl; the tool's answer is thinned out, and a mean over ten steps needs all ten."""
    lines = (run_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [dict(json.loads(line)) for line in lines if line.strip()]


async def run_demo(arguments: argparse.Namespace, console: Console) -> int:
    """The exit code: 0 where the policy has learned, 1 where it has not or the run failed, 130 after Ctrl-C."""
    from oxrl_core.runs.rundir import oxrl_home

    home = Path(arguments.home).expanduser().resolve() if arguments.home else oxrl_home()
    home.mkdir(parents=True, exist_ok=True)
    blocks = BLOCKS if (console.encoding or "").lower().startswith("utf") else ASCII_BLOCKS
    live = console.is_terminal and not arguments.save_docs
    started = time.monotonic()

    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)

    console.print(f"[bold]server[/]   {' '.join(server_command())}  (runs in {home})", highlight=False, soft_wrap=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as server_log:
        try:
            async with connected(server_command(), home, server_log) as agent:
                print_machine(console, await agent.call("check_environment"))
                names = await agent.tools()
                console.print(f"[bold]tools[/]    {len(names)}: {', '.join(names)}", highlight=False)
                launched = await agent.call("launch_run", config=arguments.recipe, overrides=arguments.set)
                console.print(
                    f"[bold]launched[/] launch_run(config={arguments.recipe!r}) -> {launched['run_id']}; "
                    "Ctrl-C stops it; starting the engines takes about half a minute",
                    highlight=False,
                    soft_wrap=True,
                )
                view_on = LiveView(console, blocks) if live else PlainView(console, blocks)
                try:
                    ended = await follow(agent, launched, view_on, interrupted, arguments.timeout)
                finally:
                    view_on.close()
                summary = await agent.call("get_metrics", run_id=str(launched["run_id"]), max_points=20) if ended.get("step") else {}
        except OxrlError:
            raise
        except Exception:
            # Whatever broke the session, the server's own words say more about it than the broken pipe does.
            server_log.seek(0)
            print(server_log.read()[-4000:], file=sys.stderr)
            raise
    if interrupted.is_set():
        console.print(f"stopped by request: {ended['run_id']} is {ended['state']} at step {ended.get('step', 0)}")
        return 130
    return report(arguments, console, ended, summary, home, time.monotonic() - started)


def report(arguments: argparse.Namespace, console: Console, ended: Answer, summary: Answer, home: Path, seconds: float) -> int:
    """Prints what was measured, draws it, and returns the exit code."""
    if ended.get("state") != "finished":
        error = dict(ended.get("error") or {})
        raise RunFailure(
            str(error.get("what") or f"the run ended as {ended.get('state')}"),
            str(error.get("where") or ended.get("path", "")),
            str(error.get("next") or f"read_logs(run_id={ended['run_id']!r}), or: oxrl run logs {ended['run_id']}"),
        )
    run_path = Path(str(ended["path"]))
    rows = read_metric_rows(run_path)
    measured = measure(rows, seconds)
    print_table(console, measured, engine_names(run_path))
    plot = draw_plot(rows, run_path / "demo.png", f"{arguments.recipe}: reward over {measured.steps} steps")
    console.print(f"[bold]plot[/]     {plot}", highlight=False, soft_wrap=True)
    console.print(f"[bold]run[/]      {run_path}", highlight=False, soft_wrap=True)
    print_settings(console, home)
    bounds = f"below {REWARD_BEFORE_BELOW} to above {REWARD_AFTER_ABOVE}"
    change = f"{shown(measured.reward_before)} -> {shown(measured.reward_after)}"
    if measured.learned:
        console.print(f"\n[bold green]It learned:[/] held-out reward {change} (asked: from {bounds}).", highlight=False)
    else:
        console.print(
            f"\n[bold red]It did not learn as it should:[/] held-out reward {change}; asked: from {bounds}.\n"
            f"next: look at {plot}, then run the demo once more with --set run.seed=1",
            highlight=False,
            soft_wrap=True,
        )
    if arguments.save_docs:
        save_docs(Path(arguments.save_docs), console.export_text(), plot, measured, summary, home)
    return 0 if measured.learned else 1


def save_docs(folder: Path, log: str, plot: Path, measured: Measured, summary: Answer, home: Path) -> Path:
    """The page docs/demo.md with the log, the picture and the metrics of this very run."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(plot, folder / "demo.png")
    metrics = {name: values for name, values in sorted(dict(summary.get("summary") or {}).items())}
    kept = {"measured": measured.__dict__, "summary": metrics}
    (folder / "demo_metrics.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    # A reader's machine has other folders; the paths of this one would be noise.
    root = Path(sys.executable).parent.parent.parent
    for path, stand_in in ((home, "~/.oxrl"), (root, "/path/to/oxrl")):
        log = log.replace(str(path), stand_in)
    log = "\n".join(line.rstrip() for line in log.splitlines()).strip("\n")
    rows = [
        f"| {name} | {' | '.join(shown(values.get(key), '.4g') for key in ('first', 'last', 'min', 'max'))} |" for name, values in metrics.items()
    ]
    page = folder / "demo.md"
    page.write_text(
        "# The demo, as it ran\n\n"
        "Made by `python -m oxrl_core.demo --save-docs docs` from measured values; do not edit.\n\n"
        f"![Reward over steps](demo.png)\n\n"
        f"Held-out reward {shown(measured.reward_before)} -> {shown(measured.reward_after)}, held-out accuracy "
        f"{shown(measured.accuracy_before)} -> {shown(measured.accuracy_after)}, {measured.steps} steps, {measured.seconds:.0f} s with start and end.\n\n"
        f"## What it printed\n\n```text\n{log}\n```\n\n"
        "## Metrics of the run\n\nAll of them are in [demo_metrics.json](demo_metrics.json).\n\n"
        "| metric | first | last | min | max |\n|---|--:|--:|--:|--:|\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )
    return page


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of `python -m oxrl_core.demo`."""
    parser = argparse.ArgumentParser(prog="python -m oxrl_core.demo", description="Launch a run through MCP and watch it learn.")
    parser.add_argument("--home", default="", help="where the run goes (default: $OXRL_HOME or ~/.oxrl)")
    parser.add_argument("--recipe", default="demo", help="recipe to launch (default: demo)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override of a configuration value; may be repeated")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds after which the run is stopped (default: 900)")
    parser.add_argument("--save-docs", default="", metavar="DIR", help="write demo.md, demo.png and demo_metrics.json of this run into DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the demo; errors are one screen without a traceback."""
    from rich.console import Console

    arguments = parse_arguments(argv)
    # A pipe has no width of its own; 100 columns keep the table and most lines whole.
    width = None if sys.stdout.isatty() and not arguments.save_docs else 100
    console = Console(record=bool(arguments.save_docs), width=width, force_terminal=False if arguments.save_docs else None)
    run: Callable[[], int] = lambda: asyncio.run(run_demo(arguments, console))  # noqa: E731
    try:
        return run()
    except OxrlError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except BaseExceptionGroup as group:
        # The protocol session wraps what went wrong inside it.
        first = next(iter(_leaves(group)))
        if not isinstance(first, OxrlError):
            raise
        print(f"demo: {first}", file=sys.stderr)
        return first.exit_code


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions inside a group, however deep."""
    return [leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])]  # pyright: ignore[reportUnknownArgumentType]


if __name__ == "__main__":
    sys.exit(main())
