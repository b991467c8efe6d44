"""The server over HTTP with what the official conformance suite calls: tools, resources and prompts named test_*.

The suite brings no fixtures of its own. Here they stand behind the product's server object, with its guard, its schemas
and its transport; the product itself offers none of them.

    python tests/clients/conformance_server.py PORT
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import mcp.types as wire
import uvicorn
from mcp import MCPError
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from pydantic import BaseModel, Field

sys.path.insert(0, str(Path(__file__).parent))  # conformance_rounds.py, beside this file

import conformance_rounds

from mcp_server.catalogue import READ, ToolFacts
from mcp_server.http import without_blanks
from mcp_server.server import SurfaceTools, build_server

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
PAUSE_SECONDS = 0.05
FIXTURES: list[Any] = []


def fixture(function: Any) -> Any:
    """Marks a function as a tool of the suite."""
    FIXTURES.append(function)
    return function


def text(words: str) -> wire.TextContent:
    return wire.TextContent(type="text", text=words)


def image() -> wire.ImageContent:
    return wire.ImageContent(type="image", data=PNG, mime_type="image/png")


def embedded(uri: str, mime_type: str, words: str) -> wire.EmbeddedResource:
    content = wire.TextResourceContents(uri=uri, mime_type=mime_type, text=words)
    return wire.EmbeddedResource(type="resource", resource=content)


@fixture
def test_simple_text() -> wire.CallToolResult:
    """Text."""
    return wire.CallToolResult(content=[text("This is a simple text response for testing.")])


@fixture
def test_image_content() -> wire.CallToolResult:
    """An image."""
    return wire.CallToolResult(content=[image()])


@fixture
def test_audio_content() -> wire.CallToolResult:
    """Sound."""
    return wire.CallToolResult(content=[wire.AudioContent(type="audio", data=WAV, mime_type="audio/wav")])


@fixture
def test_embedded_resource() -> wire.CallToolResult:
    """A resource inside the answer."""
    resource = embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    return wire.CallToolResult(content=[resource])


@fixture
def test_multiple_content_types() -> wire.CallToolResult:
    """Text, an image and a resource."""
    resource = embedded("test://mixed-content-resource", "application/json", '{"test": "data", "value": 123}')
    return wire.CallToolResult(content=[text("Multiple content types test:"), image(), resource])


@fixture
async def test_tool_with_logging(context: Context[Any, Any]) -> str:
    """Three log messages on the way."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.info(message)
        await asyncio.sleep(PAUSE_SECONDS)
    return "ok"


@fixture
async def test_tool_with_progress(context: Context[Any, Any]) -> str:
    """Three notifications of progress."""
    for done in (0, 50, 100):
        await context.report_progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(PAUSE_SECONDS)
    return "ok"


@fixture
def test_error_handling() -> str:
    """An error."""
    raise RuntimeError("This tool intentionally returns an error for testing")


@fixture
async def test_sampling(prompt: str, context: Context[Any, Any]) -> str:
    """What the client's model says."""
    messages = [wire.SamplingMessage(role="user", content=text(prompt))]
    said = await context.session.create_message(
        messages=messages, max_tokens=100, related_request_id=context.request_id
    )
    return f"LLM response: {getattr(said.content, 'text', '')}"


class Word(BaseModel):
    response: str = Field(description="User's response")


@fixture
async def test_elicitation(message: str, context: Context[Any, Any]) -> str:
    """What the person says."""
    said = await context.elicit(message, Word)
    return (
        f"User response: action={said.action}, content={said.data.model_dump_json() if said.action == 'accept' else {}}"
    )


class Defaults(BaseModel):
    name: str = Field(default="John Doe", description="User name")
    age: int = Field(default=30, description="User age")
    score: float = Field(default=95.5, description="User score")
    status: str = Field(
        default="active", description="User status", json_schema_extra={"enum": ["active", "inactive", "pending"]}
    )
    verified: bool = Field(default=True, description="Verification status")


@fixture
async def test_elicitation_sep1034_defaults(context: Context[Any, Any]) -> str:
    """A form with defaults."""
    return f"Elicitation result: action={(await context.elicit('Please provide user information', Defaults)).action}"


class Choices(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["active", "inactive", "pending"]})
    titledSingle: str = Field(
        json_schema_extra={"oneOf": [{"const": "low", "title": "Low"}, {"const": "high", "title": "High"}]}
    )
    untitledMulti: list[str] = Field(
        json_schema_extra={"items": {"type": "string", "enum": ["read", "write", "execute"]}}
    )
    titledMulti: list[str] = Field(
        json_schema_extra={
            "items": {"anyOf": [{"const": "feature", "title": "New Feature"}, {"const": "bug", "title": "Bug Fix"}]}
        }
    )
    legacyEnum: str = Field(
        json_schema_extra={
            "enum": ["small", "medium", "large"],
            "enumNames": ["Small Size", "Medium Size", "Large Size"],
        }
    )


@fixture
async def test_elicitation_sep1330_enums(context: Context[Any, Any]) -> str:
    """A form with choices."""
    return f"Elicitation completed: action={(await context.elicit('Please select values', Choices)).action}"


@fixture
def test_x_mcp_header(
    region: Annotated[str, Field(description="Mirrored", json_schema_extra={"x-mcp-header": "Region"})] = "<none>",
) -> str:
    """An argument that also stands in a header."""
    return f"region={region}"


@fixture
async def test_missing_capability(context: Context[Any, Any]) -> str:
    """The protocol's error for a client that cannot sample."""
    capabilities = context.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            code=wire.MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="needs sampling",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "ok"


def build_conformance_server() -> Any:
    """The product's server with the fixtures beside its own tools."""
    server = build_server()
    manager = server._tool_manager
    assert isinstance(manager, SurfaceTools)
    surface = manager._surface
    offered = dict(surface.offered)
    own = dict(surface.tools)
    for function in (*FIXTURES, *conformance_rounds.TOOLS, conformance_rounds.json_schema_2020_12_tool):
        name = function.__name__
        offered[name] = ToolFacts(function, name, READ, ask_less="ask for less", core=False)
        own[name] = Tool.from_function(function, name=name, description=function.__doc__, structured_output=False)
    own[conformance_rounds.SCHEMA_TOOL].parameters = conformance_rounds.SCHEMA
    server.prompt()(conformance_rounds.test_input_required_result_prompt)
    surface.__dict__.update(_chosen=(offered, surface.withheld), tools=own)

    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """Text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """Bytes."""
        return base64.b64decode(PNG)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:
        """A template."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource")
    def watched() -> str:
        """A resource that can be watched."""
        return "Watched resource content"

    @server.prompt()
    def test_simple_prompt() -> list[UserMessage]:
        """A prompt."""
        return [UserMessage("This is a simple prompt for testing.")]

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        """A prompt with arguments."""
        return [UserMessage(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        """A prompt with a resource."""
        resource = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
        return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        """A prompt with an image."""
        return [UserMessage(image()), UserMessage("Please analyze the image above.")]

    async def nothing(context: Any, parameters: Any) -> wire.EmptyResult:
        return wire.EmptyResult()

    for method, parameters in (
        ("logging/setLevel", wire.SetLevelRequestParams),
        ("resources/subscribe", wire.SubscribeRequestParams),
        ("resources/unsubscribe", wire.UnsubscribeRequestParams),
    ):
        server._lowlevel_server.add_request_handler(method, parameters, nothing)  # the SDK has no public way
    return server


if __name__ == "__main__":
    served: Any = build_conformance_server().streamable_http_app(host="127.0.0.1")
    uvicorn.run(without_blanks(served), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
