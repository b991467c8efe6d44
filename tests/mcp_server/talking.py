"""Calls of tools as a client makes them, in either era, with what must hold for every answer and every error."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.types import CallToolResult, Implementation

from mcp_server.catalogue import collect_tools
from mcp_server.server import build_server

sys.path.insert(0, str(Path(__file__).parent))  # counting.py, beside this file

from counting import tokens

ERAS = ["auto", "legacy"]
MOST_BY_DEFAULT, MOST = 1_500, 8_000
# Zero width, bidirectional, tags, variation selectors, and what a terminal obeys.
UNSEEN = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f\x00-\x08\x0b-\x1f\x7f]"
)
A_CALL = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b(?=\()|^[a-z]+(?:_[a-z]+)+$")
A_RESOURCE = re.compile(r"oxrl://[^\s,;)]+")
RESOURCES = re.compile(
    r"oxrl://(?:runs/[\w.-]+/(?:log|metrics\.jsonl|config\.yaml)|configs/[\w.-]+|bugs/[\w.-]+|docs/workflow|docs/config/\w+)"
)


def talk(
    *calls: tuple[str, dict[str, Any]], era: str = "auto", name: str = "somebody", progress: list[str] | None = None
) -> list[CallToolResult]:
    """The results of some calls over one connection."""

    async def on_progress(_done: float, _total: float | None, message: str | None) -> None:
        if progress is not None:
            progress.append(message or "")

    async def go() -> list[CallToolResult]:
        information = Implementation(name=name, version="1")
        async with Client(build_server(environment=os.environ), mode=era, client_info=information) as client:  # pyright: ignore[reportArgumentType]
            return [await client.call_tool(tool, arguments, progress_callback=on_progress) for tool, arguments in calls]

    results = anyio.run(go)
    for result in results:
        check_error(result) if result.is_error else check_answer(result)
    return results


def answer(tool: str, era: str = "auto", most: int = MOST_BY_DEFAULT, **arguments: Any) -> dict[str, Any]:
    """The structured answer, which costs no more than `most` tokens."""
    result = talk((tool, arguments), era=era)[0]
    assert not result.is_error, text_of(result)
    assert tokens(text_of(result)) <= most, tokens(text_of(result))
    return result.structured_content or {}


def error(tool: str, **arguments: Any) -> dict[str, str]:
    """The tool error."""
    result = talk((tool, arguments))[0]
    assert result.is_error, result.content
    return json.loads(text_of(result))


def text_of(result: CallToolResult) -> str:
    return result.content[0].text  # pyright: ignore[reportAttributeAccessIssue]


def links_of(result: CallToolResult) -> list[str]:
    """The addresses of the resources that an answer links to."""
    return [str(block.uri) for block in result.content if block.type == "resource_link"]


def check_answer(result: CallToolResult) -> None:
    """Fails where the answer is not the same compact JSON twice, or says a next step that nobody can take."""
    text = text_of(result)
    assert json.loads(text) == result.structured_content
    assert text == json.dumps(result.structured_content, separators=(",", ":"), ensure_ascii=False)
    assert not UNSEEN.search(text)
    assert all(RESOURCES.fullmatch(uri) for uri in links_of(result)), links_of(result)
    for path, advice in nexts(result.structured_content or {}):
        check_words(advice)
        if path == "next" and advice:
            named = [word for word in collect_tools() if re.search(rf"\b{word}\b", advice)]
            assert named or A_RESOURCE.search(advice), f"next names no tool: {advice!r}"


def check_error(result: CallToolResult) -> None:
    """Fails where an error lacks what happened or what to do, or says it in commands of a shell."""
    told = json.loads(text_of(result))
    assert set(told) == {"code", "what", "where", "next"} and told["what"] and told["next"], told
    assert not UNSEEN.search(text_of(result))
    check_words(told["what"])
    check_words(told["next"])


def check_words(advice: str) -> None:
    """Fails where advice names a tool or resource that is not there, or a command that is not said to be one."""
    tools = collect_tools()
    assert [word for word in A_CALL.findall(advice) if word not in tools] == [], advice
    assert all(RESOURCES.fullmatch(uri.rstrip(".:")) for uri in A_RESOURCE.findall(advice)), advice
    for command in re.finditer(r"(?<![\w/.-])oxrl (?!tools\b)[a-z][a-z-]+[^;,.)]*?(\(in a shell\)|$|[;,.)])", advice):
        assert command[1] == "(in a shell)", f"a command of the shell: {advice!r}"


def nexts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every `next` of an answer with where it stands."""
    if isinstance(value, dict):
        for key, item in value.items():
            here = f"{path}.{key}" if path else key
            if key == "next" and isinstance(item, str):
                yield here, item
            else:
                yield from nexts(item, here)
    elif isinstance(value, list):
        for item in value:
            yield from nexts(item, f"{path}[]")
