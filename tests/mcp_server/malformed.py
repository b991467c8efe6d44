"""Calls that cannot be right, made from the tools' own schemas, and what every answer to one must be."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from mcp.types import CallToolResult, Tool

# Calls that start or end something are made malformed only: one argument is always wrong.
ACTING = {"launch_run", "rerun", "evaluate_run", "stop_run", "generate_config", "onboard_model", "steer_onboarding"}
ACTING |= {"draft_bug_report", "submit_bug_report", "score_completions", "check_environment", "watch_run"}
OUTSIDE = {"scout_models", "inspect_model"}  # they would ask the hub

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.just("\x00"), st.just("../" * 20)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
)


def _of_type(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    texts = st.one_of(st.text(max_size=40), st.sampled_from(["latest", "demo", "reverse3", "0", "all", "reward/mean"]))
    return {
        "string": texts,
        "integer": st.integers(schema.get("minimum", -5), schema.get("maximum", 10**6)),
        "number": st.floats(0, 1),
        "boolean": st.booleans(),
        "array": st.lists(texts, max_size=3),
    }[schema["type"]]


@st.composite
def calls(draw: st.DrawFn, tools: dict[str, Tool]) -> tuple[str, dict[str, Any]]:
    """A tool and arguments: right, nearly right, or nonsense."""
    name = draw(st.sampled_from(sorted(set(tools) - OUTSIDE)))
    properties: dict[str, Any] = tools[name].input_schema["properties"]
    arguments = {key: draw(_of_type(schema)) for key, schema in properties.items() if draw(st.booleans())}
    if name in ACTING or draw(st.booleans()):
        wrong = draw(st.sampled_from([*sorted(properties), "detial"]))
        arguments[wrong] = draw(ANYTHING) if wrong == "detial" else {"no": draw(ANYTHING)}
    return name, arguments


def check_answer(result: CallToolResult) -> None:
    """An answer, or an error that says what, where and what next; never an unforeseen one."""
    if not result.is_error:
        assert result.structured_content is not None
        return
    error = json.loads(result.content[0].text)  # pyright: ignore[reportAttributeAccessIssue]
    assert set(error) == {"code", "what", "where", "next"} and error["what"]
    assert error["code"] != "InternalError", error
    assert error["next"], error
