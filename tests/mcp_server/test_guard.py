"""What every answer of the server obeys, shown with tools made for the purpose, in both eras of the protocol."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import anyio
import pytest
from mcp import Client
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from mcp_server.catalogue import READ, STOP, ToolFacts, tool
from mcp_server.server import build_server
from oxrl_core.errors import ConfigError

SECRET = "s3cr3t-value-of-my-own-variable"
HUB_TOKEN = "hf_" + "abcdefgh" * 4


class Inner(BaseModel):
    amount: float


class Text(BaseModel):
    text: str
    number: float | None = None
    inner: Inner | None = None


@tool(title="Echo", hints=READ, ask_less="a shorter text")
def echo(
    text: Annotated[str, Field(description="Anything")],
    times: Annotated[int, Field(description="How often", ge=1, le=100_000)] = 1,
    case: Annotated[Literal["as_is", "upper"], Field(description="Letters")] = "as_is",
) -> Text:
    """The text again."""
    return Text(text=(text.upper() if case == "upper" else text) * times)


@tool(title="Leak", hints=READ, ask_less="nothing")
def leak() -> Text:
    """Secrets."""
    return Text(
        text=f"\x1b[31mtoken {HUB_TOKEN}\x1b[0m and {SECRET} at https://me:pw123456@host/ in\u202e "
        "WANDB_API_KEY=0123456789abcdef",
        number=float("nan"),
    )


@tool(title="Refuse", hints=STOP, ask_less="nothing", core=True)
async def refuse() -> Text:
    """An expected error."""
    raise ConfigError(f"train.lrr is not a key, and {HUB_TOKEN} is a token", "demo.yaml", "write train.lr")


@tool(title="Crash", hints=READ, ask_less="nothing")
def crash() -> Text:
    """An unexpected error."""
    raise ZeroDivisionError(f"inside {SECRET}")


OFFERED = {function.__name__: function.tool_facts for function in (echo, leak, refuse, crash)}  # pyright: ignore[reportFunctionMemberAccess]
ERAS = ["auto", "legacy"]


def call(
    name: str, arguments: dict[str, object], era: str = "auto", offered: dict[str, ToolFacts] = OFFERED
) -> CallToolResult:
    async def go() -> CallToolResult:
        server = build_server(offered, {"MY_API_KEY": SECRET, "TOKENIZERS_PARALLELISM": "false"})
        async with Client(server, mode=era) as client:  # pyright: ignore[reportArgumentType]
            return await client.call_tool(name, arguments)

    return anyio.run(go)


def error_of(result: CallToolResult) -> dict[str, str]:
    assert result.is_error
    assert result.structured_content is None
    return json.loads(result.content[0].text)


@pytest.mark.parametrize("era", ERAS)
def test_text_and_structured_content_are_the_same_compact_json(era: str) -> None:
    result = call("echo", {"text": "aé", "times": 2}, era)
    assert result.structured_content == {"text": "aéaé"}
    assert result.content[0].text == '{"text":"aéaé"}'


@pytest.mark.parametrize("era", ERAS)
def test_an_unknown_argument_is_refused_with_the_likely_one(era: str) -> None:
    error = error_of(call("echo", {"text": "a", "tims": 2}, era))
    assert "unknown argument 'tims'" in error["what"] and "'times'" in error["what"]
    assert error["next"] == "echo takes: text, times, case"


def test_geminis_own_argument_is_tolerated() -> None:
    assert call("echo", {"text": "a", "wait_for_previous": True}).structured_content == {"text": "a"}


def test_a_wrong_value_is_named_without_links_or_class_names() -> None:
    error = error_of(call("echo", {"text": "a", "times": 0, "case": "lower"}))
    assert "times: Input should be greater than or equal to 1" in error["what"]
    assert "case: Input should be 'as_is' or 'upper'" in error["what"]
    assert "pydantic" not in json.dumps(error) and "Arguments" not in json.dumps(error)


def test_a_missing_argument_is_named() -> None:
    assert error_of(call("echo", {}))["where"] == "echo.text"


def test_numbers_in_quotes_are_understood() -> None:
    assert call("echo", {"text": "a", "times": "3"}).structured_content == {"text": "aaa"}


def test_an_unknown_tool_is_answered_with_the_likely_one() -> None:
    error = error_of(call("ecko", {}))
    assert "'echo'" in error["what"] and error["code"] == "NotFoundError"


@pytest.mark.parametrize("era", ERAS)
def test_secrets_and_invisible_characters_never_leave(era: str) -> None:
    result = call("leak", {}, era)
    text = result.content[0].text
    assert result.structured_content == json.loads(text)
    assert (
        json.loads(text)["text"]
        == "token [redacted] and [redacted] at https://[redacted]@host/ in WANDB_API_KEY=[redacted]"
    )


@pytest.mark.parametrize("era", ERAS)
def test_an_expected_error_says_what_where_and_next(era: str) -> None:
    assert error_of(call("refuse", {}, era)) == {
        "code": "ConfigError",
        "what": "train.lrr is not a key, and [redacted] is a token",
        "where": "demo.yaml",
        "next": "write train.lr",
    }


def test_an_unexpected_error_shows_an_id_whose_traceback_is_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    error = error_of(call("crash", {}))
    error_id = error["what"].split("error id ")[1][:8]
    assert SECRET not in json.dumps(error) and "Traceback" not in json.dumps(error)
    captured = capfd.readouterr().err
    assert f"error {error_id} in crash" in captured and "ZeroDivisionError" in captured


def test_a_flood_is_replaced_by_advice() -> None:
    error = error_of(call("echo", {"text": "x", "times": 30_000}))
    assert error["code"] == "TooLong" and error["next"] == "a shorter text"
    assert len(call("echo", {"text": "x", "times": 23_000}).structured_content["text"]) == 23_000


def test_schemas_hold_no_references_unions_or_titles() -> None:
    tools = _tools()
    assert tools["echo"].input_schema == {
        "type": "object",
        "properties": {
            "text": {"description": "Anything", "type": "string"},
            "times": {"default": 1, "description": "How often", "maximum": 100_000, "minimum": 1, "type": "integer"},
            "case": {"default": "as_is", "description": "Letters", "enum": ["as_is", "upper"], "type": "string"},
        },
        "required": ["text"],
    }
    assert tools["leak"].input_schema == {"type": "object", "properties": {}}
    assert tools["echo"].output_schema == {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "number": {"type": ["number", "null"]},
            "inner": {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]},
        },
        "required": ["text"],
    }


def test_hints_are_explicit_and_core_tools_are_loaded_up_front() -> None:
    tools = _tools()
    hints = tools["refuse"].annotations
    assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint) == (
        False,
        True,
        True,
        False,
    )
    assert tools["refuse"].meta == {"anthropic/alwaysLoad": True} and not tools["echo"].meta


def _tools():
    async def go():
        async with Client(build_server(OFFERED, {})) as client:
            return {one.name: one for one in (await client.list_tools()).tools}

    return anyio.run(go)
