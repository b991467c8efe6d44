"""What the core advises as commands of a shell, said in tools; none of its source is left as a command."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from mcp_server.advice import COMMANDS, NO_TOOL, SHELL_ONLY, in_tools
from mcp_server.catalogue import collect_tools
from oxrl_core.api.views import next_of
from oxrl_core.runs.status import State

sys.path.insert(0, str(Path(__file__).parent))  # talking.py, beside this file

from talking import check_words

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("oxrl_core", "swarm", "mcp_server")
# Besides the command line: the demo, the card of a model, the registry's page, and the table of commands itself.
FOR_PEOPLE = ("demo.py", "demo_report.py", "card.py", "table.py", "advice.py")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("oxrl run watch demo-1a2b", "watch_run(run_id='demo-1a2b')"),
        ("oxrl run watch latest", "watch_run latest"),
        (
            "oxrl run adopt demo-1a2b (supervises them again), or oxrl run stop (ends them)",
            "rerun(run_id='demo-1a2b', mode='resume') (supervises them again), or stop_run (ends them)",
        ),
        ("oxrl run stop RUN ends it cleanly; then launch it again", "stop_run ends it cleanly; then launch it again"),
        ("look (oxrl rollouts RUN --step N --sort advantage).", "look (query_rollouts(step=N, sort='advantage'))."),
        (
            "oxrl rollouts demo-1a2b --show 3/reverse3/7/0 --color gap",
            "query_rollouts(run_id='demo-1a2b', sample='3/reverse3/7/0')",
        ),
        (
            "oxrl rollouts demo-1a2b --step 3 --columns prompt_id,sample",
            "query_rollouts(run_id='demo-1a2b', step='3', columns=['prompt_id', 'sample'])",
        ),
        ("name it as oxrl rollouts and alerts do", "name it as query_rollouts and alerts do"),
        (
            "oxrl fork demo-1a2b --step 4 train.lr=1e-05",
            "rerun(run_id='demo-1a2b', step=4, mode='fork', overrides=['train.lr=1e-05'])",
        ),
        ("oxrl train demo", "launch_run(config='demo')"),
        ("oxrl train ~/runs/demo-1a2b/config.yaml train.lr=1e-05", "launch_run(overrides=['train.lr=1e-05'])"),
        ("oxrl train CONFIG --dry-run", "launch_run(dry_run=true)"),
        ("oxrl doctor --deep proves it", "check_environment(detail='deep') proves it"),
        ("oxrl doctor shows what the machine has", "check_environment shows what the machine has"),
        ("oxrl doctor --fix", "oxrl doctor --fix (in a shell)"),
        ("oxrl data validate reverse3 lists all", "oxrl data validate reverse3 (in a shell) lists all"),
        ("oxrl scout Qwen/Qwen3-0.6B", "inspect_model(model='Qwen/Qwen3-0.6B')"),
        ("a typing error? (oxrl scout --search NAME)", "a typing error? (scout_models)"),
        ("oxrl scout --search lists what there is", "scout_models lists what there is"),
        ("use `oxrl score`.", "use `score_completions`."),
        ("oxrl examples --all", "list_registry(kind='recipes')"),
        ("resume_run", "rerun"),
        ("the oxrl tools", "the oxrl tools"),
    ],
)  # fmt: skip
def test_a_command_is_said_as_a_call(said: str, expected: str) -> None:
    assert in_tools(said) == expected


def test_every_command_stands_for_a_tool_that_takes_its_arguments() -> None:
    from mcp_server.resources import WORKFLOW  # the page that `oxrl agent-docs` is here

    tools = collect_tools()
    for name, call in COMMANDS.items():
        if call.tool.startswith("oxrl://"):
            assert call.tool == "oxrl://docs/workflow" and WORKFLOW
            continue
        known = tools[call.tool].function.__annotations__
        for argument in filter(None, [call.takes, call.fixed, *call.options.values()]):
            assert argument.partition("=")[0] in known, (name, argument)


def advice_in(tree: ast.AST) -> list[str]:
    """Every text of a program that names a command; what is filled in is filled in with the id of a run."""
    found: list[str] = []
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= set(ast.walk(node)) - {node}
            parts = [part.value if isinstance(part, ast.Constant) else filled(part) for part in node.values]
            found.append("".join(map(str, parts)))
    found += [
        node.value
        for node in ast.walk(tree)
        if node not in inner and isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return [text for text in found if "oxrl " in text]


def filled(place: ast.expr) -> str:
    return "reward" if "id='kind'" in ast.dump(place) else "demo-1a2b"


def test_no_advice_of_the_source_is_left_as_a_command() -> None:
    looked_at, wrong = 0, list[str]()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.is_relative_to(ROOT / "oxrl_core/cli") or path.name in FOR_PEOPLE:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            documentation = {
                ast.get_docstring(node, clean=False)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            }
            for text in advice_in(tree):
                if text not in documentation:
                    looked_at += 1
                    wrong += misfits(text, path)
    for path in (ROOT / "oxrl_core/diagnose").glob("*.yaml"):
        for text in texts_of(yaml.safe_load(path.read_text(encoding="utf-8"))):
            looked_at += 1
            wrong += misfits(text, path)
    assert looked_at > 60
    assert wrong == [], "\n".join(wrong)


def misfits(text: str, path: Path) -> list[str]:
    try:
        check_words(in_tools(text))
    except AssertionError as error:
        return [f"{path.relative_to(ROOT)}: {str(error).splitlines()[0]}"]
    return []


def texts_of(value: object) -> list[str]:
    if isinstance(value, str):
        return [value] if "oxrl " in value else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in inner for text in texts_of(item)]


def test_a_command_that_no_tool_stands_for_is_one_of_the_command_line() -> None:
    import typer.main

    from oxrl_core.cli.app import app

    commands = typer.main.get_command(app)
    for name in (*COMMANDS, *SHELL_ONLY):
        place = commands
        for word in name.split():
            if not word.startswith("--"):
                place = place.commands[word]  # pyright: ignore[reportAttributeAccessIssue]
    assert in_tools("oxrl push demo-1a2b me/mine").endswith(NO_TOOL)


@pytest.mark.parametrize("state", get_args(State))
@pytest.mark.parametrize("kind", ["rl", "sl", "evaluate", "replay", "onboard"])
def test_in_every_state_of_every_kind_of_run_the_next_step_is_a_tool(kind: str, state: str) -> None:
    assert in_tools(next_of(kind, state)) in collect_tools()
