"""Writes what makes other programs find and start the MCP server, all from pyproject.toml and the server's own tools.

    python scripts/mcp_packaging.py                write the files
    python scripts/mcp_packaging.py --check        exit 1 where one of them is stale
    python scripts/mcp_packaging.py --bundle DIR   put what an MCPB bundle holds into DIR; then: mcpb pack DIR oxrl.mcpb

.mcp.json                     Claude Code in a clone of this repository
.claude-plugin/               Claude Code's plugin and a marketplace that holds it; with skills/oxrl
gemini-extension.json         gemini-cli's extension
antigravity/mcp_config.json   Antigravity's settings
mcpb/manifest.json            the bundle for desktop programs
server.json                   the entry of the MCP registry; README.md holds its name in a comment
AGENTS.md, llms.txt, skills/oxrl/SKILL.md   hand-written, but for the list of tools between two marks
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mcp_server.catalogue import collect_tools  # noqa: E402
from oxrl_core.agent_clients import CLIENTS, GEMINI_TIMEOUT_MS, SERVER, TOKENS  # noqa: E402
from scripts.pages import write_or_check  # noqa: E402  (the path comes first)

COMMAND = "python scripts/mcp_packaging.py"
OWNER = "OWNER"  # who publishes puts [project.urls] Repository into pyproject.toml; until then nobody is claimed
BLOCK = re.compile(r"(<!-- tools[^>]*-->\n).*?(<!-- /tools -->)", re.DOTALL)
PAGES_WITH_TOOLS = ("AGENTS.md", "llms.txt", "skills/oxrl/SKILL.md")
SKILL = "skills/oxrl/SKILL.md"
BUNDLED = ("mcp_server", "oxrl", "oxrl_core", "registry", "swarm", "LICENSE", "README.md", "pyproject.toml")
TITLE = "oxRL"
SHORT = "Post-train language models from an agent: scout, configure, launch, watch, diagnose, compare."
TOKEN_TITLES = {
    "HF_TOKEN": ("Hugging Face token", "For gated models and datasets"),
    "GITHUB_TOKEN": ("GitHub token", "For bug reports about oxRL itself"),
}


def project() -> dict[str, Any]:
    """The project table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def repository() -> str:
    """The address of the repository, empty where pyproject.toml names none."""
    urls: dict[str, str] = project().get("urls", {})
    return next((url for name, url in urls.items() if name.lower() in ("repository", "source")), "")


def registry_name() -> str:
    """The server's name in the MCP registry: io.github.<owner>/oxrl-mcp."""
    match = re.match(r"https://github\.com/([A-Za-z0-9-]+)/", repository())
    return f"io.github.{match[1] if match else OWNER}/oxrl-mcp"


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    return re.split(r"(?<=[.])\s", " ".join(inspect.cleandoc(text).split()), maxsplit=1)[0]


def tools() -> dict[str, str]:
    """The tools in the server's order, each with one sentence."""
    return {name: first_sentence(facts.function.__doc__ or "") for name, facts in collect_tools().items()}


def environment(client: str) -> dict[str, str]:
    """The tokens as a client's files refer to them."""
    return {name: CLIENTS[client].reference.format(name) for name in TOKENS}


def documents() -> dict[str, dict[str, Any]]:
    """Every generated JSON file."""
    facts = project()
    version, keywords = facts["version"], facts["keywords"]
    common = {"name": SERVER, "version": version, "description": SHORT}
    where = {"repository": repository()} if repository() else {}
    arguments = ["oxrl-mcp"]
    settings = [
        {"name": title, "description": text, "envVar": name, "sensitive": True}
        for name, (title, text) in TOKEN_TITLES.items()
    ]
    return {
        # bootstrap.sh makes .venv once and says so on stderr, which leaves the protocol's stream alone.
        ".mcp.json": {
            "mcpServers": {SERVER: {"command": "./bootstrap.sh", "args": arguments, "env": environment("claude")}}
        },
        ".claude-plugin/plugin.json": {
            **common,
            "author": {"name": TITLE},
            "license": facts["license"],
            "keywords": keywords,
            **where,
            # As a plugin this server wins over the one in .mcp.json: a project's relative path leads nowhere there.
            "mcpServers": {
                SERVER: {
                    "command": "${CLAUDE_PLUGIN_ROOT}/bootstrap.sh",
                    "args": arguments,
                    "env": environment("claude"),
                }
            },
        },
        ".claude-plugin/marketplace.json": {
            "name": SERVER,
            "owner": {"name": TITLE},
            "description": SHORT,
            "plugins": [{"name": SERVER, "source": "./", "description": SHORT, "version": version}],
        },
        "gemini-extension.json": {
            **common,
            "contextFileName": SKILL,
            "mcpServers": {
                SERVER: {
                    "command": "${extensionPath}/bootstrap.sh",
                    "args": arguments,
                    "env": environment("gemini"),
                    "timeout": GEMINI_TIMEOUT_MS,
                }
            },
            "settings": settings,
        },
        "antigravity/mcp_config.json": {"mcpServers": {SERVER: CLIENTS["antigravity"].entry(arguments, {})}},
        "mcpb/manifest.json": bundle_manifest(facts),
        "server.json": {
            "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
            "name": registry_name(),
            "title": TITLE,
            "description": SHORT,
            **({"repository": {"url": repository(), "source": "github"}} if repository() else {}),
            "version": version,
            "packages": [
                {
                    "registryType": "pypi",
                    "identifier": facts["name"],
                    "version": version,
                    "runtimeHint": "uvx",
                    "packageArguments": [{"type": "positional", "value": word} for word in ("mcp", "serve")],
                    "transport": {"type": "stdio"},
                    "environmentVariables": [
                        {"name": name, "description": text, "isRequired": False, "isSecret": True}
                        for name, (_, text) in TOKEN_TITLES.items()
                    ],
                }
            ],
        },
    }


def bundle_manifest(facts: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the MCPB bundle: uv installs the light core of the bundled source, without torch."""
    options = {
        "home": {
            "type": "directory",
            "title": "Folder of runs",
            "description": "Runs, checkpoints and caches live here",
            "default": "${HOME}/.oxrl",
            "required": False,
        },
        "read_only": {
            "type": "boolean",
            "title": "Read only",
            "description": "Nothing is launched, stopped or reported",
            "default": False,
            "required": False,
        },
        **{
            name.lower(): {
                "type": "string",
                "title": title,
                "description": text,
                "sensitive": True,
                "default": "",
                "required": False,
            }
            for name, (title, text) in TOKEN_TITLES.items()
        },
    }
    variables = {
        "OXRL_HOME": "home",
        "OXRL_MCP_READ_ONLY": "read_only",
        **{name: name.lower() for name in TOKENS},
    }
    return {
        "manifest_version": "0.4",
        "name": "oxrl-mcp",
        "display_name": TITLE,
        "version": facts["version"],
        "description": SHORT,
        "author": {"name": TITLE},
        "license": facts["license"],
        "keywords": facts["keywords"],
        "server": {
            "type": "uv",
            "entry_point": "mcp_server/__main__.py",
            "mcp_config": {
                "command": "uv",
                "args": ["tool", "run", "--from", "${__dirname}", "oxrl-mcp"],
                "env": {variable: f"${{user_config.{option}}}" for variable, option in variables.items()},
            },
        },
        "user_config": options,
        "tools": [{"name": name, "description": text} for name, text in tools().items()],
        "tools_generated": False,
        "prompts_generated": True,
        "compatibility": {"platforms": ["linux", "darwin"], "runtimes": {"python": facts["requires-python"]}},
    }


def with_tools(name: str) -> str:
    """A hand-written page with the list of tools between its marks."""
    page = (ROOT / name).read_text(encoding="utf-8")
    if not BLOCK.search(page):
        raise SystemExit(f"{name} has no marks <!-- tools --> and <!-- /tools --> for the list of tools")
    # Where words are counted the names do: an agent sees the descriptions with the tools themselves.
    listed = ", ".join(f"`{tool}`" for tool in tools())
    return BLOCK.sub(lambda match: f"{match[1]}{listed}\n{match[2]}", page)


def make_bundle(folder: Path) -> None:
    """Puts the manifest and the source of the light core into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in BUNDLED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "mcpb/manifest.json", folder / "manifest.json")
    print(f"{folder}: next: mcpb pack {folder} oxrl.mcpb")


def main() -> int:
    """The exit code: 0 where every file is written or current."""
    parser = argparse.ArgumentParser(description="the files that make programs find the MCP server")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="compare only")
    choice.add_argument("--bundle", type=Path, metavar="DIR", help="make the folder of an MCPB bundle")
    options = parser.parse_args()
    if options.bundle:
        make_bundle(options.bundle)
        return 0
    made = {name: json.dumps(document, indent=2) + "\n" for name, document in documents().items()}
    made |= {name: with_tools(name) for name in PAGES_WITH_TOOLS}
    codes = [write_or_check(ROOT / name, text, check=options.check, command=COMMAND) for name, text in made.items()]
    mark = f"<!-- mcp-name: {registry_name()} -->"
    if mark not in (ROOT / "README.md").read_text(encoding="utf-8"):
        print(f"README.md lacks the line {mark}, by which the MCP registry knows its owner", file=sys.stderr)
        codes.append(1)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
