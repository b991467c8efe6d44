"""The one middleware: what the SDK lets pass and a calling model should not meet.

Before a call: unknown arguments and values of the wrong kind are answered with what would be right. After it: secrets
are masked, and an answer that would flood the model's context is replaced by the advice how to ask for less.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.types import CallToolResult
from pydantic import BaseModel, ValidationError

from mcp_server.catalogue import compact_json, refusal

if TYPE_CHECKING:
    from mcp.server.mcpserver.tools import Tool

    from mcp_server.catalogue import ToolFacts
    from mcp_server.redact import Redactor

TOLERATED_ARGUMENTS = {"wait_for_previous"}  # gemini-cli adds it to every tool and sends it along
LONGEST_ANSWER = 24_000  # characters, about 8,000 tokens; hosts cut or divert from about 40,000 on
LONGEST_ECHO = 80  # characters of a caller's own word that an error repeats


def make_guard(tools: Mapping[str, Tool], facts: Mapping[str, ToolFacts], redactor: Redactor) -> ServerMiddleware[Any]:
    """The middleware for these tools."""

    async def guard(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method != "tools/call":
            return await call_next(ctx)
        parameters = dict(ctx.params or {})
        name = str(parameters.get("name", ""))
        arguments = {
            key: value
            for key, value in dict(parameters.get("arguments") or {}).items()
            if key not in TOLERATED_ARGUMENTS
        }
        mistake = _mistake(name, arguments, tools)
        if mistake is not None:
            return _safe(_wire(mistake), name, redactor)
        rest = dataclasses.replace(ctx, params={**parameters, "arguments": arguments})
        return _capped(_safe(_wire(await call_next(rest)), name, redactor), name, facts[name].ask_less)

    return guard


def _mistake(name: str, arguments: dict[str, Any], tools: Mapping[str, Tool]) -> CallToolResult | None:
    """The tool error for a call that cannot be right; none where it can."""
    # Here and not at the top: the server must answer `initialize` before it reads configuration code.
    from oxrl_core.suggest import did_you_mean

    if name not in tools:
        shown = name[:LONGEST_ECHO]
        return refusal(
            "NotFoundError",
            f"there is no tool {shown!r}.{did_you_mean(shown, tools)}",
            "",
            f"call one of: {', '.join(tools)}",
        )
    known: dict[str, Any] = tools[name].parameters["properties"]
    for key in arguments:
        if key not in known:
            shown = key[:LONGEST_ECHO]
            takes = f"{name} takes: {', '.join(known)}" if known else f"{name} takes no arguments"
            return refusal(
                "ConfigError",
                f"unknown argument {shown!r} of {name}.{did_you_mean(shown, known)}",
                f"{name}.{shown}",
                takes,
            )
    try:
        tools[name].fn_metadata.validate_arguments(arguments)
    except ValidationError as error:
        problems = [(".".join(str(part) for part in one["loc"]), one["msg"]) for one in error.errors(include_url=False)]
        return refusal(
            "ConfigError",
            "; ".join(f"{where}: {message}" for where, message in problems),
            f"{name}.{problems[0][0]}",
            f"mend the argument and call {name} again",
        )
    return None


def _wire(result: Any) -> dict[str, Any]:
    """The result as it goes over the wire."""
    if isinstance(result, BaseModel):
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dict(result or {})


def _safe(result: dict[str, Any], name: str, redactor: Redactor) -> dict[str, Any]:
    """The result without secrets; where it is structured, its text is made anew from the masked object."""
    if result.get("structuredContent") is not None:
        result["structuredContent"] = redactor.tree(result["structuredContent"])
        result["content"] = [{"type": "text", "text": compact_json(result["structuredContent"])}]
        return result
    for block in result.get("content", []):
        if block.get("type") == "text":
            block["text"] = _masked_error(str(block["text"]).removeprefix(f"Error executing tool {name}: "), redactor)
    return result


def _masked_error(text: str, redactor: Redactor) -> str:
    """An error text without secrets; one that is JSON stays JSON."""
    try:
        return compact_json(redactor.tree(json.loads(text)))
    except json.JSONDecodeError:
        return redactor.text(text)


def _capped(result: dict[str, Any], name: str, ask_less: str) -> dict[str, Any]:
    """The result, or the advice how to ask for less."""
    size = sum(len(str(block.get("text", ""))) for block in result.get("content", []))
    if size <= LONGEST_ANSWER:
        return result
    return _wire(
        refusal(
            "TooLong",
            f"the answer of {name} would have {size} characters; the limit is {LONGEST_ANSWER}",
            name,
            ask_less,
        )
    )
