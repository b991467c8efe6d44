"""The tools of the server, collected from the modules of mcp_server.tools.

A tool is one typed function that returns a pydantic object; its docstring is its description and its arguments are
its schema. `@tool` adds what a signature cannot say: hints for the host, the toolset it belongs to, the package it
cannot work without, and how to ask for less when an answer is too long.
"""

from __future__ import annotations

import base64
import functools
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
from pydantic import BaseModel, PrivateAttr

from mcp_server.policy import Policy
from mcp_server.schemas import lean_schema, plain_schema
from oxrl_core.errors import OxrlError
from oxrl_core.runs.views import View

Function = TypeVar("Function", bound=Callable[..., Any])
LONGEST_DESCRIPTION = 300  # some hosts put every description in front of the model on each turn

# Always all four: a hint that is missing counts as "destructive" and "open world".
READ = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
LOOK_OUTSIDE = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True)
WRITE = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
LAUNCH = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
STOP = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


@dataclass(frozen=True)
class ToolFacts:
    """What `@tool` knows about a function."""

    function: Callable[..., Any]
    title: str
    hints: ToolAnnotations
    ask_less: str  # how to get a shorter answer
    core: bool  # loaded by Claude Code up front instead of being searched for
    toolset: str = "run"
    needs: str = ""  # a package of oxRL without which it cannot work


def tool(
    *, title: str, hints: ToolAnnotations, ask_less: str, core: bool = False, toolset: str = "run", needs: str = ""
) -> Callable[[Function], Function]:
    """A decorator that offers the function as a tool and leaves the function itself as it is."""

    def offer(function: Function) -> Function:
        function.__dict__["tool_facts"] = ToolFacts(function, title, hints, ask_less, core, toolset, needs)
        return function

    return offer


def is_installed(package: str) -> bool:
    """Whether the package can be imported; a folder without a module in it is none."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.origin is not None


def operation(package: str, name: str) -> Callable[..., Any]:
    """A function of a package that is loaded when a tool needs it."""
    return getattr(importlib.import_module(package), name)


def offered_tools(policy: Policy) -> tuple[dict[str, ToolFacts], dict[str, tuple[str, str]]]:
    """The tools that the policy allows, and for the others why they are not offered and how they would be."""
    offered: dict[str, ToolFacts] = {}
    withheld: dict[str, tuple[str, str]] = {}
    for name, facts in collect_tools().items():
        why, then = policy.why_not_offered(facts.toolset, facts.hints.read_only_hint is True)
        if why:
            withheld[name] = (why, then)
        else:
            offered[name] = facts
    return offered, withheld


def collect_tools() -> dict[str, ToolFacts]:
    """Every tool by name, in the order of the modules' names and of their lines: the same in every process."""
    package = importlib.import_module("mcp_server.tools")
    found: dict[str, ToolFacts] = {}
    for module_info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"mcp_server.tools.{module_info.name}")
        for name, value in vars(module).items():
            facts = getattr(value, "tool_facts", None)
            if isinstance(facts, ToolFacts) and facts.function.__module__ == module.__name__:
                assert name not in found, f"two tools are called {name}"
                if facts.needs and not is_installed(facts.needs):
                    continue
                found[name] = facts
    return found


def compact_json(value: Any) -> str:
    """The value as JSON without spaces: indented JSON costs some 40 % more tokens."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class Pictured(View):
    """An answer with a picture beside its JSON."""

    _picture: bytes = PrivateAttr(default=b"")


def answer(value: BaseModel) -> CallToolResult:
    """The object as structured content and, for hosts that read only text, as the same JSON in text."""
    # Through JSON text: it turns NaN into null, which a Python dump leaves as it is.
    whole, told = json.loads(value.model_dump_json()), json.loads(value.model_dump_json(exclude_defaults=True))
    found = _with_tools_named(_brief(whole, told))
    content: list[ContentBlock] = [TextContent(type="text", text=compact_json(found))]
    if isinstance(value, Pictured) and value._picture:  # pyright: ignore[reportPrivateUsage]
        picture = base64.b64encode(value._picture).decode()  # pyright: ignore[reportPrivateUsage]
        content.append(ImageContent(type="image", data=picture, mime_type="image/png"))
    return CallToolResult(content=content, structured_content=found)


# The core says what to do next as a command of the shell; here is the same as a call of a tool.
_COMMANDS = [
    (re.compile(pattern), tool_call)
    for pattern, tool_call in (
        (r"\boxrl run (?:resume|adopt) (\S+?)(?=[\s,;)]|$)", r"rerun(run_id='\1', mode='resume')"),
        (r"\boxrl run (list|watch|stop|logs|show|metrics)(?: ([A-Za-z0-9][\w.-]*-[0-9a-f]{4}))?", ""),
        (r"\boxrl run launch (\S+)", r"launch_run(config='\1')"),
        (r"\boxrl rollouts \S+", "query_rollouts"),
        (r"\boxrl (?:fork|replay) \S+ --step (\S+)", r"rerun with mode fork or replay and step \1"),
        (r"\boxrl (?:diagnose)(?: \S+)?", "diagnose_run"),
        (r"\boxrl doctor\b", "check_environment"),
        (r"\boxrl (rewards|datasets|algorithms)\b", r"list_registry(kind='\1')"),
        (r"\boxrl examples(?: --all)?\b", "list_registry(kind='recipes')"),
        (r"\boxrl score\b", "score_completions"),
        (r"\boxrl evaluate \S+", "evaluate_run"),
        (r"^resume_run$", "rerun"),
    )
]
_RUN_TOOLS = {
    "list": "list_runs", "watch": "watch_run", "stop": "stop_run", "logs": "read_logs", "show": "get_run",
    "metrics": "get_metrics",
}  # fmt: skip


def in_tools(text: str) -> str:
    """The advice with the tools of this server in place of commands of the shell."""
    for pattern, call in _COMMANDS:
        text = pattern.sub(call or _run_tool, text)
    return text


def _run_tool(match: re.Match[str]) -> str:
    return _RUN_TOOLS[match[1]] + (f"(run_id='{match[2]}')" if match[2] else "")


def _with_tools_named(value: Any) -> Any:
    """The answer with every `next` in it said in tools."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {
            key: in_tools(item) if key == "next" and isinstance(item, str) else _with_tools_named(item)
            for key, item in items
        }
    if isinstance(value, list):
        return [_with_tools_named(item) for item in cast("list[Any]", value)]
    return value


def _brief(whole: Any, told: Any) -> Any:
    """The value without fields that are empty because nobody set them, and with numbers of six digits."""
    if isinstance(whole, dict):
        items = cast("dict[str, Any]", whole).items()
        told_items = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
        return {
            key: _brief(item, told_items.get(key))
            for key, item in items
            if key in told_items or item not in ("", [], {}, None)
        }
    if isinstance(whole, list):
        wholes = cast("list[Any]", whole)
        tolds = cast("list[Any]", told) if isinstance(told, list) else [None] * len(wholes)
        return [_brief(item, said) for item, said in zip(wholes, tolds, strict=True)]
    return float(f"{whole:.6g}") if isinstance(whole, float) else whole


def refusal(code: str, what: str, where: str = "", next_step: str = "") -> CallToolResult:
    """A tool error: the JSON of an OxrlError, which says what to do next."""
    error = {"code": code, "what": in_tools(what), "where": where, "next": in_tools(next_step)}
    return CallToolResult(content=[TextContent(type="text", text=compact_json(error))], is_error=True)


def failure(name: str, error: Exception) -> CallToolResult:
    """The tool error for an exception; an unforeseen one shows an id here and its traceback on stderr."""
    if isinstance(error, OxrlError):
        return refusal(type(error).__name__, error.what, error.where, error.next_step)
    error_id = uuid.uuid4().hex[:8]
    print(
        f"oxrl-mcp: error {error_id} in {name}\n{''.join(traceback.format_exception(error))}",
        file=sys.stderr,
        flush=True,
    )
    return refusal(
        "InternalError",
        f"{name} failed in a way that was not foreseen (error id {error_id}, {type(error).__name__})",
        name,
        f"try once more; if it stays, the traceback is in the server's stderr under {error_id}: report it",
    )


def build_tools(offered: Mapping[str, ToolFacts]) -> dict[str, Tool]:
    """The SDK's tools."""
    return {name: build_tool(name, facts) for name, facts in offered.items()}


def build_tool(name: str, facts: ToolFacts) -> Tool:
    """The SDK's tool for one function: answers and errors in our form, schemas that every host accepts."""
    function = facts.function
    signature = inspect.signature(function, eval_str=True)
    described = inspect.cleandoc(function.__doc__ or "").replace("\n", " ")
    assert 0 < len(described) <= LONGEST_DESCRIPTION, f"the docstring of {name} has {len(described)} characters"

    if inspect.iscoroutinefunction(function):

        async def call_async(**arguments: Any) -> CallToolResult:
            try:
                return answer(await cast(Awaitable[BaseModel], function(**arguments)))
            except Exception as error:
                return failure(name, error)

        call: Callable[..., Any] = call_async
    else:

        def call_sync(**arguments: Any) -> CallToolResult:
            try:
                return answer(function(**arguments))
            except Exception as error:
                return failure(name, error)

        call = call_sync

    functools.update_wrapper(call, function)
    # The model in the annotation becomes the output schema, and every answer is validated against it.
    returns: Any = Annotated[CallToolResult, signature.return_annotation]
    call.__dict__["__signature__"] = signature.replace(return_annotation=returns)
    call.__annotations__ = {**{key: p.annotation for key, p in signature.parameters.items()}, "return": returns}

    built = Tool.from_function(
        call,
        name=name,
        title=facts.title,
        description=described,
        annotations=facts.hints,
        meta={"anthropic/alwaysLoad": True} if facts.core else None,
    )
    built.parameters = lean_schema(built.parameters)
    built.fn_metadata.output_schema = plain_schema(built.fn_metadata.output_schema or {})
    return built
