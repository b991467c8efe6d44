"""What the conformance suite of 2026-07-28 calls in rounds: the server answers with questions, the client comes back.

Each function is a tool or a prompt of the suite, named as it asks for it. The state between the rounds is sealed by the
SDK, so that nobody changes it on the way.
"""

from __future__ import annotations

from typing import Any

import mcp.types as wire
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage

Rounds = wire.CallToolResult | wire.InputRequiredResult
Question = wire.ElicitRequest | wire.CreateMessageRequest | wire.ListRootsRequest


def ask(message: str, name: str, kind: str = "string") -> wire.ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return wire.ElicitRequest(params=wire.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(prompt: str, tokens: int) -> wire.CreateMessageRequest:
    message = wire.SamplingMessage(role="user", content=wire.TextContent(type="text", text=prompt))
    return wire.CreateMessageRequest(params=wire.CreateMessageRequestParams(messages=[message], max_tokens=tokens))


ROOTS = wire.ListRootsRequest(params=wire.RequestParams())
NAME = ask("What is your name?", "name")


def questions(state: str | None = None, **asked: Question) -> wire.InputRequiredResult:
    return wire.InputRequiredResult(input_requests=asked, request_state=state)


def said(words: object) -> wire.CallToolResult:
    return wire.CallToolResult(content=[wire.TextContent(type="text", text=str(words))])


def answers(context: Context[Any, Any]) -> dict[str, Any]:
    return dict(context.input_responses or {})


async def test_input_required_result_elicitation(context: Context[Any, Any]) -> Rounds:
    """A name is asked for."""
    answer = answers(context).get("user_name")
    return questions(user_name=NAME) if answer is None else said(f"Hello, {answer.content['name']}!")


async def test_input_required_result_sampling(context: Context[Any, Any]) -> Rounds:
    """The client's model is asked."""
    answer = answers(context).get("capital_question")
    return questions(capital_question=sample("What is the capital of France?", 100)) if answer is None else said(answer)


async def test_input_required_result_list_roots(context: Context[Any, Any]) -> Rounds:
    """The client's folders are asked for."""
    answer = answers(context).get("client_roots")
    return questions(client_roots=ROOTS) if answer is None else said([str(root.uri) for root in answer.roots])


async def test_input_required_result_request_state(context: Context[Any, Any]) -> Rounds:
    """The state of the first round comes back in the second."""
    if "confirm" not in answers(context):
        return questions("first", confirm=ask("Please confirm", "ok", "boolean"))
    return said("state-ok" if context.request_state == "first" else "state-lost")


async def test_input_required_result_multiple_inputs(context: Context[Any, Any]) -> Rounds:
    """Three questions of three kinds at once."""
    asked = {"user_name": NAME, "greeting": sample("Generate a greeting", 50), "client_roots": ROOTS}
    return said("all") if asked.keys() <= answers(context).keys() else questions("three", **asked)


async def test_input_required_result_multi_round(context: Context[Any, Any]) -> Rounds:
    """Two questions, one after the other."""
    if context.request_state == "step2" and "step2" in answers(context):
        return said("done")
    if context.request_state == "step1" and "step1" in answers(context):
        return questions("step2", step2=ask("Step 2: What is your favorite color?", "color"))
    return questions("step1", step1=ask("Step 1: What is your name?", "name"))


async def test_input_required_result_tampered_state(context: Context[Any, Any]) -> Rounds:
    """A state that was changed on the way is refused."""
    if "confirm" in answers(context):
        return said("untouched")
    return questions("sealed", confirm=ask("Please confirm", "ok", "boolean"))


async def test_input_required_result_capabilities(context: Context[Any, Any]) -> Rounds:
    """Only what the client has said that it can do is asked of it."""
    can = context.client_capabilities
    asked: dict[str, Question] = {}
    if can is not None and can.elicitation is not None:
        asked["user_name"] = NAME
    if can is not None and can.sampling is not None:
        asked["greeting"] = sample("Generate a greeting", 50)
    return questions(**asked) if asked else said("nothing can be asked")


async def test_input_required_result_prompt(context: Context[Any, Any]) -> list[UserMessage] | wire.InputRequiredResult:
    """A prompt that asks for its context."""
    answer = answers(context).get("user_context")
    if answer is None:
        return questions(user_context=ask("What context should the prompt use?", "context"))
    return [UserMessage(f"Use this context: {answer.content['context']}")]


TOOLS = [
    test_input_required_result_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_tampered_state,
    test_input_required_result_capabilities,
]

# Handed out as it is: the suite looks whether a server changes the schema that a tool was given.
SCHEMA_TOOL = "json_schema_2020_12_tool"
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def json_schema_2020_12_tool(name: str = "") -> str:
    """A tool with every word of JSON Schema that the protocol knows."""
    return name
