"""python -m evals: sets a task up, starts a client on it, grades, counts."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals import planting
from evals.task import Check, Task, World, all_tasks, answer_of
from oxrl_core.agent_clients import GEMINI_TIMEOUT_MS, server_command

ROOT = Path(__file__).resolve().parent.parent
CHARACTERS_PER_TOKEN = 4  # an estimate: each model counts in its own way
COMMANDS = {
    "scripted": [sys.executable, "-m", "evals.player", "{task}", "{mcp_config}"],
    "claude": [
        "claude", "-p", "{prompt}", "--mcp-config", "{mcp_config}", "--strict-mcp-config", "--allowedTools",
        "mcp__oxrl",
    ],
    "gemini": ["gemini", "-p", "{prompt}", "--approval-mode", "yolo"],
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What came out of one play."""

    task: str
    passed: bool
    checks: list[Check]
    answer: dict[str, Any]
    calls: int
    errors: int
    characters: int  # of arguments and answers
    characters_of_tool_list: int
    tokens_estimated: int
    seconds: float
    exit_code: int
    said: str = ""  # the end of what the client printed, where it failed


def play(task: Task, words: list[str], folder: Path) -> Result:
    """The result of one client on one task in a folder of its own."""
    world = World(folder)
    for path in (world.home, world.workspace):
        path.mkdir(parents=True, exist_ok=True)
    os.environ.update(OXRL_HOME=str(world.home), HF_HUB_OFFLINE="1")
    try:
        task.setup(world)
        log = folder / "calls.jsonl"
        settings = write_settings(world, log)
        filled = [
            word.replace("{task}", task.name)
            .replace("{mcp_config}", str(settings))
            .replace("{prompt}", task.prompt(world))
            for word in words
        ]
        began = time.monotonic()
        code, out = run_client(filled, world.workspace, task.minutes * 60)
        seconds = time.monotonic() - began
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        calls = [line for line in lines if line["method"] == "tools/call"]
        world.said, answer = out, answer_of(out)
        # Who knows the answer without having looked has not shown that the tools lead to it.
        checks = [Check("it used the tools", bool(calls), str(len(calls))), *graded(task, world, answer)]
    finally:
        planting.stop_everything(world)
    listed = max((line["answer"] for line in lines if line["method"] == "tools/list"), default=0)
    characters = sum(line["arguments"] + line["answer"] for line in calls)
    passed = code == 0 and all(check.passed for check in checks)
    return Result(
        task=task.name,
        passed=passed,
        checks=checks,
        answer=answer,
        calls=len(calls),
        errors=sum(line["error"] for line in calls),
        characters=characters,
        characters_of_tool_list=listed,
        tokens_estimated=(characters + listed) // CHARACTERS_PER_TOKEN,
        seconds=round(seconds, 1),
        exit_code=code,
        said="" if passed else out[-2000:],
    )


def graded(task: Task, world: World, answer: dict[str, Any]) -> list[Check]:
    """The grader's checks; an answer that it cannot even read is a failed one."""
    if not answer:
        return [Check("the answer ends with a JSON object", False, world.said[-300:])]
    try:
        return task.grade(world, answer)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        return [Check("the answer has the form that was asked for", False, f"{type(error).__name__}: {error}"[:300])]


def write_settings(world: World, log: Path) -> Path:
    """The MCP settings of the play, where Claude Code and gemini-cli look for them."""
    command, *rest = [sys.executable, "-m", "evals.proxy", str(log), *server_command()]
    environment = {"OXRL_HOME": str(world.home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    server = {"command": command, "args": rest, "env": environment}
    path = world.workspace / ".mcp.json"
    path.write_text(json.dumps({"mcpServers": {"oxrl": server}}, indent=2))
    gemini = world.workspace / ".gemini" / "settings.json"
    gemini.parent.mkdir(exist_ok=True)
    gemini.write_text(json.dumps({"mcpServers": {"oxrl": {**server, "timeout": GEMINI_TIMEOUT_MS, "trust": True}}}))
    return path


def run_client(words: list[str], folder: Path, seconds: float) -> tuple[int, str]:
    """Exit code and standard output of the client; 124 where its time was up."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    try:
        done = subprocess.run(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        out: Any = error.stdout or b""  # bytes, also where text was asked for
        return 124, out.decode(errors="replace") if isinstance(out, bytes) else out
    except FileNotFoundError:
        raise SystemExit(f"{words[0]} is not on the PATH; next: install it, or pass --client command") from None


def show(result: Result) -> str:
    """The result for a person."""
    verdict = "passed" if result.passed else "FAILED"
    counted = f"{result.calls} calls ({result.errors} errors), {result.characters} characters"
    listed = f"{result.characters_of_tool_list} of the tool list, about {result.tokens_estimated} tokens"
    lines = [f"{result.task}: {verdict}; {counted} and {listed}, {result.seconds} s"]
    lines += [f"  {'ok ' if check.passed else 'NO '} {check.name}: {check.seen}" for check in result.checks]
    return "\n".join([*lines, *([f"  said: {result.said}"] if result.said else [])])


def main() -> int:
    """The exit code: 0 where every task that was played is passed."""
    tasks = all_tasks()
    parser = argparse.ArgumentParser(prog="python -m evals", description="agents on the MCP server, graded")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="the tasks")
    what.add_argument("--task", choices=tasks, help="play one")
    what.add_argument("--all", action="store_true", help="play every one")
    parser.add_argument("--client", choices=[*COMMANDS, "command"], default="scripted")
    parser.add_argument(
        "--command", default="", help="with --client command: words with {prompt}, {mcp_config}, {task}"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a task")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the worlds there")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:14} {task.summary}" for name, task in tasks.items()))
        return 0
    if (options.client == "command") != bool(options.command):
        parser.error("--client command and --command belong together")
    words = shlex.split(options.command) if options.command else COMMANDS[options.client]
    passed = True
    for name in tasks if options.all else [options.task]:
        with tempfile.TemporaryDirectory(prefix=f"oxrl-eval-{name}-", ignore_cleanup_errors=True) as scratch:
            folder = Path(options.keep) / name if options.keep else Path(scratch)
            result = play(tasks[name], words, folder.absolute())
        print(json.dumps(asdict(result)) if options.json else show(result), flush=True)
        passed = passed and result.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
