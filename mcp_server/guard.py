"""The one middleware: what the SDK lets pass and a calling model should not meet.

Before a call: unknown tools and arguments and values of the wrong kind are answered with what would be right. After it:
secrets are masked, an answer that would flood the model's context is replaced by the advice how to ask for less, and a
line goes to the audit log. What leaves as a resource, a prompt or a completion passes here as well.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.types import INVALID_REQUEST, CallToolResult
from pydantic import BaseModel, ValidationError

from mcp_server.answers import compact_json, refusal
from mcp_server.audit import ids_of, write_entry
from mcp_server.rates import CallRate
from oxrl_core.errors import OxrlError

if TYPE_CHECKING:
    from mcp_server.policy import Policy
    from mcp_server.server import Surface
    from oxrl_core.redact import Redactor

TOLERATED_ARGUMENTS = {"wait_for_previous"}  # gemini-cli adds it to every tool and sends it along
LONGEST_ANSWER = 24_000  # characters, about 8,000 tokens; hosts cut or divert from about 40,000 on
LONGEST_ECHO = 80  # characters of a caller's own word that an error repeats
READING_METHODS = ("resources/read", "prompts/get", "completion/complete")


def make_guard(surface: Surface, redactor: Redactor) -> ServerMiddleware[Any]:
    """The middleware for these tools."""
    rate = CallRate(surface.policy.calls_per_second)

    async def guard(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method != "tools/call" and ctx.method not in READING_METHODS:
            return await call_next(ctx)
        began, parameters = time.perf_counter(), _mapping(ctx.params)
        name = str(parameters.get("name") or "")
        arguments = _mapping(parameters.get("arguments"))
        error, size = "Interrupted", 0  # where the client has gone before there was an answer
        try:
            wait = rate.seconds_to_wait()
            if wait:
                result = _too_many(ctx.method, wait, surface.policy)
            elif ctx.method == "tools/call":
                result = await _call(ctx, call_next, parameters, surface, redactor)
            else:
                result = redactor.tree(_wire(await call_next(ctx)))
            error, size = _outcome(result)
            return result
        except Exception as raised:
            error = type(raised).__name__
            raise
        finally:
            named = {**arguments, **({"uri": parameters["uri"]} if "uri" in parameters else {})}
            ids = redactor.tree(ids_of(named))  # a run can be named after a secret
            write_entry(ctx.method, name, ids, _client_of(ctx), time.perf_counter() - began, size, error)

    return guard


def _too_many(method: str, wait: float, policy: Policy) -> dict[str, Any]:
    """The answer to a caller who is in a loop."""
    what = f"more than {policy.calls_per_second:g} calls a second over ten seconds (OXRL_MCP_CALLS_PER_SECOND)"
    then = f"wait {max(wait, 1):.0f} s; to follow a run, one watch_run waits for its next step or its end"
    if method != "tools/call":
        raise MCPError(code=INVALID_REQUEST, message=f"{what}: {then}", data={"retryAfterSeconds": round(wait, 2)})
    return _wire(refusal("TooManyCalls", what, "", then))


async def _call(
    ctx: ServerRequestContext[Any, Any],
    call_next: CallNext,
    parameters: dict[str, Any],
    surface: Surface,
    redactor: Redactor,
) -> dict[str, Any]:
    name = str(parameters.get("name") or "")
    given = parameters.get("arguments")
    if given is not None and not isinstance(given, dict):
        kind = type(given).__name__
        return _wire(refusal("ConfigError", f"arguments are a {kind}", name[:LONGEST_ECHO], "send a JSON object"))
    arguments = {key: value for key, value in _mapping(given).items() if key not in TOLERATED_ARGUMENTS}
    mistake = _mistake(name, arguments, surface)
    if mistake is not None:
        return _safe(_wire(mistake), name, redactor)
    rest = dataclasses.replace(ctx, params={**parameters, "arguments": arguments})
    result = _wire(await call_next(rest))
    if "content" not in result:  # the host is asked something first
        return cast("dict[str, Any]", redactor.tree(result)) if "inputRequests" not in result else result
    return _capped(_safe(result, name, redactor), name, surface.offered[name].ask_less)


def _mapping(value: Any) -> dict[str, Any]:
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}


def _client_of(ctx: ServerRequestContext[Any, Any]) -> str:
    parameters = ctx.session.client_params
    return parameters.client_info.name if parameters is not None else ""


def _outcome(result: dict[str, Any]) -> tuple[str, int]:
    """The code of the error, empty where there is none, and how many characters the answer has."""
    blocks: list[dict[str, Any]] = result.get("content") or []
    texts = [str(block.get("text", "")) for block in blocks]
    if not blocks:
        return "", len(str(result))
    if not result.get("isError"):
        return "", sum(map(len, texts))
    try:
        return str(json.loads(texts[0]).get("code", "Error")), len(texts[0])
    except (ValueError, AttributeError, IndexError):
        return "Error", sum(map(len, texts))


def _mistake(name: str, arguments: dict[str, Any], surface: Surface) -> CallToolResult | None:
    """The tool error for a call that cannot be right; none where it can."""
    # Here and not at the top: the server must answer `initialize` before it reads configuration code.
    from oxrl_core.suggest import did_you_mean

    shown = name[:LONGEST_ECHO]
    if name in surface.withheld:
        why, then = surface.withheld[name]
        return refusal("NotOffered", f"{name} is not offered: {why}", name, then)
    if name not in surface.tools:
        return refusal(
            "NotFoundError",
            f"there is no tool {shown!r}.{did_you_mean(shown, surface.tools)}",
            "",
            f"call one of: {', '.join(surface.tools)}",
        )
    return _wrong_argument(name, arguments, surface)


def _wrong_argument(name: str, arguments: dict[str, Any], surface: Surface) -> CallToolResult | None:
    from oxrl_core.suggest import did_you_mean

    tool = surface.tools[name]
    known: dict[str, Any] = tool.parameters["properties"]
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
        tool.fn_metadata.validate_arguments(arguments)
    except ValidationError as error:
        problems = [(".".join(str(part) for part in one["loc"]), one["msg"]) for one in error.errors(include_url=False)]
        return refusal(
            "ConfigError",
            "; ".join(f"{where}: {message}" for where, message in problems[:5])[:1000],
            f"{name}.{problems[0][0]}",
            f"mend the argument and call {name} again",
        )
    from mcp_server.confinement import check_arguments

    try:
        check_arguments(arguments, surface.policy)
    except OxrlError as error:
        return refusal(type(error).__name__, error.what, error.where, error.next_step)
    return None


def _wire(result: Any) -> dict[str, Any]:
    """The result as it goes over the wire."""
    if isinstance(result, BaseModel):
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dict(result or {})


def _safe(result: dict[str, Any], name: str, redactor: Redactor) -> dict[str, Any]:
    """The result without secrets; where it is structured, its text is made anew from the masked object."""
    blocks: list[dict[str, Any]] = result.get("content", [])
    if result.get("structuredContent") is not None:
        result["structuredContent"] = redactor.tree(result["structuredContent"])
        text = {"type": "text", "text": compact_json(result["structuredContent"])}
        others = [block for block in blocks if block.get("type") != "text"]
        # The address of a resource has the name of a run in it; a picture is the server's own.
        result["content"] = [text, *(one if one.get("type") == "image" else redactor.tree(one) for one in others)]
        return result
    for block in blocks:
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
