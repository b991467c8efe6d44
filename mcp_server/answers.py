"""What a tool gives back: an object as compact JSON, or an error that says what to do next."""

from __future__ import annotations

import base64
import functools
import json
import math
import re
import sys
import traceback
import uuid
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

from mcp.types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent
from pydantic import BaseModel, PrivateAttr
from pydantic_core import to_jsonable_python

from mcp_server.advice import OWN_WORDS, in_tools
from oxrl_core.errors import OxrlError
from oxrl_core.runs.views import View

LINKED_FIELD = re.compile(r"\{(\w+)\}")
_ATOMS = (str, bool, int, type(None))


class Pictured(View):
    """An answer with a picture beside its JSON."""

    _picture: bytes = PrivateAttr(default=b"")


class Settled(View):
    """An object that is never changed: it is told once."""

    _told: dict[str, Any] | None = PrivateAttr(default=None)


def compact_json(value: Any) -> str:
    """The value as JSON without spaces: indented JSON costs some 40 % more tokens."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def answer(value: BaseModel, link: str = "") -> CallToolResult:
    """The object as structured content, with its picture, and the resource that holds more of it: `link` is its address
    with fields of the object in braces. The guard writes the same JSON as text, once it is masked."""
    content: list[ContentBlock] = []
    if isinstance(value, Pictured) and value._picture:  # pyright: ignore[reportPrivateUsage]
        picture = base64.b64encode(value._picture).decode()  # pyright: ignore[reportPrivateUsage]
        content.append(ImageContent(type="image", data=picture, mime_type="image/png"))
    found = told(value)
    if link and all(found.get(name) for name in LINKED_FIELD.findall(link)):  # what is only planned has no name yet
        uri = LINKED_FIELD.sub(lambda match: quote(str(found[match[1]]), safe=""), link)
        content.append(ResourceLink(type="resource_link", name=uri.rpartition("/")[2], uri=uri))
    # An object of ours is made of what it may hold: it is not validated once more on its way out.
    return CallToolResult.model_construct(content=content, structured_content=found)


def told(value: Any, *, own: bool = False) -> Any:
    """The value as JSON has it: without fields that are empty because nobody set them, numbers with six digits.

    `own`: these are words of oxRL itself, which name commands of a shell; here they name tools.
    """
    if isinstance(value, _ATOMS):
        return in_tools(value) if own and isinstance(value, str) else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Settled):
        kept = value.__pydantic_private__ or {}  # by its name it would be found five times as slowly
        if kept.get("_told") is None:
            value._told = _told_fields(value)  # pyright: ignore[reportPrivateUsage]
        return (value.__pydantic_private__ or {})["_told"]
    if isinstance(value, BaseModel):
        return _told_fields(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {str(key): told(item, own=key in OWN_WORDS) for key, item in items}
    if isinstance(value, list | tuple):
        return [told(item, own=own) for item in cast("list[Any]", value)]
    return told(to_jsonable_python(value), own=own)


def _told_fields(value: BaseModel) -> dict[str, Any]:
    unset = _unset_fields(type(value))
    return {
        name: told(item, own=name in OWN_WORDS)
        for name, item in value.__dict__.items()
        if item or name not in unset or item != unset[name]
    }


@functools.cache
def _unset_fields(kind: type[BaseModel]) -> dict[str, Any]:
    """The fields that are empty where nobody set them, and what they are then. A zero and a False are no emptiness."""
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
        if not field.is_required()
    }
    return {name: value for name, value in defaults.items() if value in ("", [], {}, None, ())}


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
