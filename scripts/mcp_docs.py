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
from pathlib import Path
from typing import Any

import jsonschema
from mcp import Client, StdioServerParameters
from mcp.types import Tool

from mcp_server.guard import LONGEST_ANSWER
from mcp_server.hosts import HOST_SECONDS, UNKNOWN_HOST_SECONDS
from oxrl_core.agent_clients import client_settings, server_command

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mcp.md"
COMMAND_IN_DOCS = ["/path/to/oxrl/.venv/bin/oxrl-mcp"]
EXAMPLE = re.compile(r"<!-- example (\w+): (\{.*?\}) -->\n```json\n(.*?)\n```", re.DOTALL)
LONGEST_LIST_IN_EXAMPLE = 3
DEADLINE_SECONDS = 600

Examples = dict[str, tuple[dict[str, Any], Any]]


def shortened(value: Any) -> Any:
    """The value with long lists cut, for reading; it stays valid against the schema."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value[:LONGEST_LIST_IN_EXAMPLE]]
    return value


async def list_tools() -> tuple[list[Tool], str]:
    """The tools and the instructions of the real server process."""
    command = server_command()
    async with Client(
        StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ)), mode="legacy"
    ) as client:
        return (await client.list_tools()).tools, client.instructions or ""


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
            await example("validate_config", config="demo", overrides=["train.steps=12"])
            launched = await example("launch_run", config="demo", overrides=["train.steps=12"], key="docs-example")
            run_id = launched["run_id"]
            try:
                ended = False
                while not ended:
                    view = await example("watch_run", run_id=run_id, until="end", wait_seconds=30)
                    ended = view["state"] in ("finished", "failed", "stopped", "lost")
            finally:
                await example("stop_run", run_id=run_id, reason="the example is over")
            await example("get_run", run_id=run_id)
            await example("get_metrics", run_id=run_id, names=["reward/mean", "loss"], max_points=3)
            await example("read_logs", run_id=run_id, lines=3)
            await example("list_runs", limit=1)
        missing = set(names) - set(examples)
        if missing:
            raise SystemExit(f"no example call is written for: {', '.join(sorted(missing))} (scripts/mcp_docs.py)")
        return examples


def examples_in(page: str) -> Examples:
    """The examples that the page holds."""
    return {name: (json.loads(arguments), json.loads(text)) for name, arguments, text in EXAMPLE.findall(page)}


def check_examples(tools: list[Tool], examples: Examples) -> None:
    """Ends the program where an example is missing or is no longer what the tool would answer."""
    for tool in tools:
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


def tool_section(tool: Tool, example: tuple[dict[str, Any], Any]) -> str:
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
    arguments, answer = example
    lines += [
        f"<!-- example {tool.name}: {json.dumps(arguments)} -->",
        "```json",
        json.dumps(shortened(answer), indent=2, ensure_ascii=False),
        "```",
        "",
    ]
    return "\n".join(lines)


def render(tools: list[Tool], instructions: str, examples: Examples) -> str:
    """The whole page."""
    settings = "\n\n".join(
        f"{one.client}, `{one.file}`:\n\n```json\n{one.json}\n```" for one in client_settings(COMMAND_IN_DOCS)
    )
    waits = ", ".join(f"{seconds:.0f} s for `{host}`" for host, seconds in HOST_SECONDS.items())
    return (
        "# The MCP server\n\n"
        "Made by `python scripts/mcp_docs.py` from the server itself; do not edit.\n\n"
        "`oxrl-mcp` offers everything that an agent needs to run post-training: it checks the machine, validates "
        "configurations, launches runs, follows them, reads their metrics and logs, and stops them. It speaks the "
        "Model Context Protocol over stdin and stdout, both the versions with a handshake and the one without "
        "(2026-07-28).\n\n"
        f"## Connect\n\n{settings}\n\n"
        "The command is the absolute path of `oxrl-mcp` in the environment that `make demo` made; `make demo` "
        "prints these lines with the path filled in. `OXRL_HOME` in `env` puts the runs elsewhere than in "
        "`~/.oxrl`.\n\n"
        "## What an agent is told first\n\n"
        f"> {instructions}\n\n"
        "## Rules that hold for every tool\n\n"
        "- A run belongs to no server: it goes on when the server or the client ends, and any later session finds it "
        "with `list_runs`.\n"
        "- An answer is one object, the same compact JSON in text and in structured content; fields that nobody "
        "set are left out, numbers have six digits.\n"
        "- An error says `code`, `what`, `where` and `next`. An argument that a tool does not know is an "
        "error that names the likely one.\n"
        f"- An answer has at most {LONGEST_ANSWER:,} characters; beyond, the error says how to ask for less.\n"
        f"- `watch_run` waits no longer than the host allows: {waits}, else {UNKNOWN_HOST_SECONDS:.0f} s "
        "(`OXRL_MCP_MAX_WAIT_SECONDS` overrides). A wait that brings nothing is not an error.\n"
        "- Secrets are masked in every answer: known formats, and the values of the server's own secret variables.\n"
        "- Text in logs and datasets comes from outside: it is data, never instructions.\n\n"
        "## Tools\n\n"
        "Long lists in the examples are cut after three items.\n\n"
        + "\n".join(tool_section(tool, examples[tool.name]) for tool in tools)
    )


def main() -> int:
    """The exit code: 0 where the page is current."""
    parser = argparse.ArgumentParser(description="docs/mcp.md from the running server")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="compare only")
    choice.add_argument("--keep", action="store_true", help="keep the example answers of the page")
    arguments = parser.parse_args()
    tools, instructions = asyncio.run(asyncio.wait_for(list_tools(), 60))
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if arguments.check or arguments.keep:
        examples = examples_in(page)
    else:
        examples = asyncio.run(asyncio.wait_for(ask_for_examples([tool.name for tool in tools]), DEADLINE_SECONDS))
    check_examples(tools, examples)
    rendered = render(tools, instructions, examples)
    if not arguments.check:
        PAGE.write_text(rendered, encoding="utf-8")
        return 0
    if page != rendered:
        print("docs/mcp.md is not what the server offers now; next: python scripts/mcp_docs.py --keep", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
