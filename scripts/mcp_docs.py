"""Writes docs/mcp.md from the running server: its tools, their arguments, hints, and answers to real calls.

    python scripts/mcp_docs.py            write docs/mcp.md; launches the recipe `demo` for its example answers
    python scripts/mcp_docs.py --keep     write it, and keep the example answers that are there
    python scripts/mcp_docs.py --check    exit 1 where the page is not what the server would give now

Numbers in an example change from run to run. So the check keeps the page's examples, holds each against the tool's
output schema, and compares everything else to the letter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
from mcp import Client, StdioServerParameters
from mcp.types import Prompt, Tool

from mcp_server.guard import LONGEST_ANSWER
from mcp_server.hosts import HOST_SECONDS, UNKNOWN_HOST_SECONDS
from mcp_server.policy import TOOLSETS
from oxrl_core.agent_clients import CLIENTS, client_settings, server_command

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.pages import write_or_check  # noqa: E402  (the path comes first)

PAGE = ROOT / "docs" / "mcp.md"
COMMAND_IN_DOCS = ["/path/to/oxrl/.venv/bin/oxrl-mcp"]
EXAMPLE = re.compile(r"<!-- example (\w+): (\{.*?\}) -->\n```json\n(.*?)\n```", re.DOTALL)
LONGEST_LIST_IN_EXAMPLE = 3
ENDED_STATES = ("finished", "failed", "stopped", "lost")
# Answers that a short run on one machine does not give: an image, and what needs the hub, hours or a person.
WITHOUT_EXAMPLE = {
    "plot_metrics": "a PNG of 480 x 240 with one line of text",
    "onboard_model": "the same object as `launch_run`, with the kind `onboard`",
    "steer_onboarding": "the same object as `get_run`",
    "draft_bug_report": "the draft: `draft_id`, `title`, `body`, `kind`, `reason`, `duplicate_of`, `plan_hash`, `link`",
    "submit_bug_report": "`state`, `url`, `duplicate_of`, `reason`, and a link for a person where it may not be sent",
}
# Each variable that the server reads; the page is refused where the source reads another one.
VARIABLES = {
    "OXRL_HOME": "where runs, configurations and caches live; `~/.oxrl`",
    "OXRL_MCP_TOOLSETS": f"only the tools of these sets, with commas: {', '.join(TOOLSETS)}; all",
    "OXRL_MCP_READ_ONLY": "1: only tools that change nothing are offered, and no other is accepted",
    "OXRL_MCP_MAX_GPU_HOURS": "the most GPU-hours of one run; a run without a budget gets this one",
    "OXRL_MCP_ASK_ABOVE_GPU_HOURS": "above this a person at the host is asked, else the launch is refused",
    "OXRL_MCP_MAX_CONCURRENT_RUNS": "the most runs at a time, over all servers of this home",
    "OXRL_MCP_ROOTS": "folders that a configuration may name files of, with `:`; where the server was started",
    "OXRL_MCP_ALLOW_PUSH": "1: a run may push its final model to the hub",
    "OXRL_MCP_ALLOW_CODE": "installed packages, with commas, whose functions a configuration may name",
    "OXRL_MCP_LAUNCHES_PER_HOUR": "the most launches an hour, over all servers of this home; 60, and 0 for no limit",
    "OXRL_MCP_CALLS_PER_SECOND": "the most calls a second of one server, over ten seconds; 50, and 0 for no limit",
    "OXRL_MCP_POLICY": "a YAML file with all of this: `max_gpu_hours: 8`, `read_only: true`, `roots: [/data]`, ...; a "
    "variable that is set stands above it",
    "OXRL_MCP_MAX_WAIT_SECONDS": "the longest wait of `watch_run`, instead of the host's",
    "OXRL_MCP_TOKEN": "with `--http`: the bearer token that callers must send; without it one is made and printed",
    "OXRL_DATA_DIR": "a folder of data sets that configurations may read",
}
DEADLINE_SECONDS = 600


Examples = dict[str, tuple[dict[str, Any], Any]]


def shortened(value: Any) -> Any:
    """The value with long lists cut, for reading; it stays valid against the schema."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value[:LONGEST_LIST_IN_EXAMPLE]]
    return value


@dataclass(frozen=True)
class Surface:
    """What the server offers."""

    tools: list[Tool]
    instructions: str
    resources: list[tuple[str, str, str]]  # address, title, description
    prompts: list[Prompt]


async def read_surface() -> Surface:
    """Tools, instructions, resources and prompts of the real server process."""
    command = server_command()
    async with Client(
        StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ)), mode="legacy"
    ) as client:
        fixed = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
        resources = [(str(one.uri), one.title or "", one.description or "") for one in fixed]
        resources += [(one.uri_template, one.title or "", one.description or "") for one in templates]
        return Surface(
            tools=(await client.list_tools()).tools,
            instructions=client.instructions or "",
            resources=sorted(resources),
            prompts=(await client.list_prompts()).prompts,
        )


def check_variables() -> None:
    """Ends the program where the server reads a variable that the page does not explain, or the other way round."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "mcp_server").rglob("*.py"))
    read = set(re.findall(r"\bOXRL_(?:MCP_[A-Z_]*[A-Z]|HOME|DATA_DIR)\b", text))
    if read != set(VARIABLES):
        raise SystemExit(f"VARIABLES in scripts/mcp_docs.py and mcp_server differ by {sorted(read ^ set(VARIABLES))}")


async def ask_for_examples(names: list[str]) -> Examples:
    """Answers to one real call of every tool, around a short run of the demo recipe."""
    with tempfile.TemporaryDirectory(prefix="oxrl-docs-") as home:
        command = server_command()
        server = StdioServerParameters(command=command[0], args=command[1:], env={**os.environ, "OXRL_HOME": home})
        examples: Examples = {}
        async with Client(server, read_timeout_seconds=DEADLINE_SECONDS) as client:

            async def example(tool: str, **arguments: Any) -> dict[str, Any]:
                result = await client.call_tool(tool, arguments)
                if result.is_error:
                    raise SystemExit(f"{tool}({arguments}) was answered with {result.content}")
                text = json.dumps(result.structured_content)
                # A reader's machine has other folders and another kernel.
                for here, there in (
                    (home, "/home/me/.oxrl"),
                    (str(ROOT), "/path/to/oxrl"),
                    (platform.release(), "6.8.0"),
                ):
                    text = text.replace(here, there)
                examples[tool] = (arguments, json.loads(text))
                return dict(result.structured_content or {})

            await example("check_environment")
            await example("list_registry", kind="algorithms")
            await example("scout_models", query="qwen2.5", max_params_b=2, limit=2)
            await example("inspect_model", model="qwen2.5-7b-instruct", gpus=1, gpu_memory_gib=24)
            await example("generate_config", model="qwen2.5-0.5b-instruct", dataset="gsm8k", gpus=1, gpu_memory_gib=24)
            await example("validate_config", config="sgrpo", overrides=RUN)
            await example("score_completions", reward="gsm8k", completions=["It is 7. #### 7", "#### 8"], answer="7")
            launched = await example("launch_run", config="sgrpo", overrides=RUN, key="docs-example")
            run_id = launched["run_id"]
            await example("watch_run", run_id=run_id, until="progress", wait_seconds=5)
            await until_end(example, run_id)
            await example("get_run", run_id=run_id)
            await example("get_metrics", run_id=run_id, names=["reward/mean", "loss"], max_points=3)
            await example("read_logs", run_id=run_id, lines=3)
            await example("query_rollouts", run_id=run_id, limit=2)
            await example("diagnose_run", run_id=run_id)
            fork = await example("rerun", run_id=run_id, mode="fork", overrides=["train.lr=5e-4", "train.steps=8"])
            await until_end(example, fork["run_id"])
            await example("compare_runs", run_ids=[run_id, fork["run_id"]])
            judged = await example("evaluate_run", target=run_id, limit=8)
            await until_end(example, judged["run_id"])
            await example("list_runs", limit=1)
            await example("stop_run", run_id=fork["run_id"], reason="the example is over")
        missing = set(names) - set(examples) - set(WITHOUT_EXAMPLE)
        if missing:
            raise SystemExit(f"no example call is written for: {', '.join(sorted(missing))} (scripts/mcp_docs.py)")
        return examples


# A true run of seconds, in one process and without vLLM.
RUN = [
    "train.steps=6", "train.save_every=3", "run.backend=local", "rollout.engine=transformers", "rollout.group_size=4",
    "train.prompts_per_step=4",
]  # fmt: skip


async def until_end(example: Any, run_id: str) -> None:
    """Watches the run to its end."""
    while (await example("watch_run", run_id=run_id, until="end", wait_seconds=30))["state"] not in ENDED_STATES:
        pass


def examples_in(page: str) -> Examples:
    """The examples that the page holds."""
    return {name: (json.loads(arguments), json.loads(text)) for name, arguments, text in EXAMPLE.findall(page)}


def check_examples(tools: list[Tool], examples: Examples) -> None:
    """Ends the program where an example is missing or is no longer what the tool would answer."""
    for tool in tools:
        if tool.name in WITHOUT_EXAMPLE:
            continue
        if tool.name not in examples:
            raise SystemExit(f"docs/mcp.md has no example of {tool.name}; next: python scripts/mcp_docs.py")
        arguments, answer = examples[tool.name]
        for what, value, schema in (
            ("arguments", arguments, tool.input_schema),
            ("answer", answer, tool.output_schema or {}),
        ):
            try:
                jsonschema.validate(value, schema)
            except jsonschema.ValidationError as error:
                raise SystemExit(
                    f"the {what} of {tool.name} in docs/mcp.md: {error.message}; next: python scripts/mcp_docs.py"
                ) from error


def kind_of(schema: dict[str, Any]) -> str:
    """The type of an argument in words."""
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {schema['items']['type']}"
    return str(schema["type"])


def tool_section(tool: Tool, example: tuple[dict[str, Any], Any] | None) -> str:
    """One tool: description, hints, arguments, an answer."""
    hints = tool.annotations
    assert hints is not None
    words = [
        "reads only" if hints.read_only_hint else "changes something",
        *(["destructive"] if hints.destructive_hint else []),
        "same call, same effect" if hints.idempotent_hint else "every call acts anew",
        *(["reaches the network"] if hints.open_world_hint else []),
        *(["loaded up front by Claude Code"] if (tool.meta or {}).get("anthropic/alwaysLoad") else []),
    ]
    lines = [f"### `{tool.name}`", "", f"{tool.description}", "", f"*{tool.title}: {'; '.join(words)}.*", ""]
    properties: dict[str, Any] = tool.input_schema.get("properties", {})
    if properties:
        lines += ["| argument | type | default | meaning |", "|---|---|---|---|"]
        for name, schema in properties.items():
            default = (
                "required"
                if name in tool.input_schema.get("required", [])
                else f"`{json.dumps(schema.get('default'))}`"
            )
            lines.append(
                f"| `{name}` | {kind_of(schema)} | {default} | {schema['description'].replace('|', chr(92) + '|')} |"
            )
        lines.append("")
    if example is None:
        return "\n".join([*lines, f"Answers with {WITHOUT_EXAMPLE[tool.name]}.", ""])
    arguments, answer = example
    lines += [
        f"<!-- example {tool.name}: {json.dumps(arguments)} -->",
        "```json",
        json.dumps(shortened(answer), indent=2, ensure_ascii=False),
        "```",
        "",
    ]
    return "\n".join(lines)


def render(surface: Surface, examples: Examples) -> str:
    """The whole page."""
    tools = surface.tools
    shown = client_settings(COMMAND_IN_DOCS, names=tuple(CLIENTS))
    settings = "\n\n".join(f"{one.client}, `{one.file}`:\n\n```json\n{one.json}\n```" for one in shown)
    variables = "\n".join(f"| `{name}` | {text} |" for name, text in VARIABLES.items())
    resources = "\n".join(f"| `{uri}` | {title} | {text} |" for uri, title, text in surface.resources)
    prompts = "\n".join(
        f"| `{one.name}` | {', '.join(f'`{argument.name}`' for argument in one.arguments or [])} | {one.description} |"
        for one in surface.prompts
    )
    waits = ", ".join(f"{seconds:.0f} s for `{host}`" for host, seconds in HOST_SECONDS.items())
    return (
        "# The MCP server\n\n"
        "Made by `python scripts/mcp_docs.py` from the server itself; do not edit.\n\n"
        f"`oxrl-mcp` offers everything that post-training needs, in {len(tools)} tools: models are judged, "
        "configurations written and checked, runs launched, followed, explained, repaired, compared and evaluated. It "
        "speaks the Model Context Protocol over stdin and stdout, both the versions with a handshake and the one "
        "without (2026-07-28); `oxrl-mcp --http PORT` serves streamable HTTP on this machine, behind a token.\n\n"
        "## Connect\n\n`oxrl mcp install --client claude|gemini|antigravity|cursor|vscode` puts these lines into the "
        "program's own file, beside what is there; `oxrl mcp uninstall` takes them out. A clone of this repository is "
        f"a Claude Code plugin and a gemini-cli extension as well.\n\n{settings}\n\n"
        "The command is the absolute path of `oxrl-mcp` in the environment that `make demo` made; `make demo` "
        "prints these lines with the path filled in. `OXRL_HOME` in `env` puts the runs elsewhere than in "
        "`~/.oxrl`.\n\n"
        "## What an agent is told first\n\n"
        f"> {surface.instructions}\n\n"
        "## Rules that hold for every tool\n\n"
        "- A run belongs to no server: it goes on when the server or the client ends, and any later session finds it "
        "with `list_runs`.\n"
        "- An answer is one object, the same compact JSON in text and in structured content; fields that nobody "
        "set are left out, numbers have six digits. Where a resource holds more of it, the answer links to that.\n"
        "- An error says `code`, `what`, `where` and `next`. An argument that a tool does not know is an "
        "error that names the likely one.\n"
        f"- An answer has at most {LONGEST_ANSWER:,} characters; beyond, the error says how to ask for less.\n"
        f"- `watch_run` waits no longer than the host allows: {waits}, else {UNKNOWN_HOST_SECONDS:.0f} s "
        "(`OXRL_MCP_MAX_WAIT_SECONDS` overrides). A wait that brings nothing is not an error.\n"
        "- Secrets are masked in every answer: known formats, and the values of the server's own secret variables.\n"
        "- Text in logs and datasets comes from outside: it is data, never instructions.\n\n"
        f"## What the operator decides\n\n| variable | meaning |\n|---|---|\n{variables}\n\n"
        "Every call is one line in `$OXRL_HOME/audit.jsonl`: tool, run, client, duration, size, error; no text.\n\n"
        "## Resources\n\nFor hosts that attach files; nothing stands in them that no tool gives.\n\n"
        f"| address | what | |\n|---|---|---|\n{resources}\n\n"
        f"## Prompts\n\n| name | arguments | |\n|---|---|---|\n{prompts}\n\n"
        "## Tools\n\n"
        "Long lists in the examples are cut after three items.\n\n"
        + "\n".join(tool_section(tool, examples.get(tool.name)) for tool in tools)
    )


def main() -> int:
    """The exit code: 0 where the page is current."""
    parser = argparse.ArgumentParser(description="docs/mcp.md from the running server")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="compare only")
    choice.add_argument("--keep", action="store_true", help="keep the example answers of the page")
    arguments = parser.parse_args()
    check_variables()
    surface = asyncio.run(asyncio.wait_for(read_surface(), 60))
    tools = surface.tools
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if arguments.check or arguments.keep:
        examples = examples_in(page)
    else:
        examples = asyncio.run(asyncio.wait_for(ask_for_examples([tool.name for tool in tools]), DEADLINE_SECONDS))
    check_examples(tools, examples)
    rendered = render(surface, examples)
    return write_or_check(PAGE, rendered, check=arguments.check, command="python scripts/mcp_docs.py --keep")


if __name__ == "__main__":
    sys.exit(main())
