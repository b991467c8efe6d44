"""The tools of the server, collected from the modules of mcp_server.tools.

A tool is one typed function that returns a pydantic object; its docstring is its description and its arguments are
its schema. `@tool` adds what a signature cannot say: hints for the host, the toolset it belongs to, the package it
cannot work without, and how to ask for less when an answer is too long.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import BaseModel

from mcp_server.answers import answer, failure
from mcp_server.policy import Policy
from mcp_server.schemas import lean_schema, plain_schema

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
    link: str = ""  # the resource that holds more than the answer: its address, with fields of the answer in braces


def tool(
    *,
    title: str,
    hints: ToolAnnotations,
    ask_less: str,
    core: bool = False,
    toolset: str = "run",
    needs: str = "",
    link: str = "",
) -> Callable[[Function], Function]:
    """A decorator that offers the function as a tool and leaves the function itself as it is."""

    def offer(function: Function) -> Function:
        function.__dict__["tool_facts"] = ToolFacts(function, title, hints, ask_less, core, toolset, needs, link)
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
                return answer(await cast(Awaitable[BaseModel], function(**arguments)), facts.link)
            except Exception as error:
                return failure(name, error)

        call: Callable[..., Any] = call_async
    else:

        def call_sync(**arguments: Any) -> CallToolResult:
            try:
                return answer(function(**arguments), facts.link)
            except Exception as error:
                return failure(name, error)

        call = call_sync

    functools.update_wrapper(call, function)
    # The model in the annotation becomes the output schema; an object of it needs no validation on its way out.
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
    built.fn_metadata.output_model = None
    return built
