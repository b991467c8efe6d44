"""JSON schemas that every host accepts: no references, no unions, no titles.

Some hosts send a tool's schema to a model API that knows only a small part of JSON Schema; what they do not know makes
every call fail. pydantic writes `$ref`, `anyOf` with null and a title per property; here they are folded away.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

# Of an argument's schema; the server checks them all the same, and says what was wrong. In front of a model on every
# turn they would cost a quarter of what all tools cost.
UNSAID = ("minLength", "maxLength", "pattern", "minItems", "maxItems")


def lean_schema(schema: Schema) -> Schema:
    """The plain schema of a tool's arguments without bounds of texts and lists, and without defaults that are empty."""
    result = plain_schema(schema)
    for one in result["properties"].values():
        for place in (one, one.get("items", {})):
            for name in UNSAID:
                place.pop(name, None)
        if one.get("default", 0) in ("", []) or one.get("default") is False:
            del one["default"]
    return result


def plain_schema(schema: Schema) -> Schema:
    """The schema with references inlined, `null` alternatives and titles dropped.

    Inputs are not closed with `additionalProperties`: some model APIs do not know it, and gemini-cli sends an argument
    of its own with every call. The guard refuses unknown arguments, and says which there are.
    """
    definitions: dict[str, Schema] = schema.get("$defs", {})

    def plain(node: Any, names_are_keys: bool = False) -> Any:
        if isinstance(node, list):
            return [plain(item) for item in node]  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(node, dict):
            return node
        if names_are_keys:
            return {name: plain(item) for name, item in node.items()}  # pyright: ignore[reportUnknownVariableType]
        found: Schema = dict(node)  # pyright: ignore[reportUnknownArgumentType]
        if "$ref" in found:
            target = definitions[str(found.pop("$ref")).rsplit("/", 1)[-1]]
            return plain({**target, **found})
        if "anyOf" in found:
            kept = [option for option in found["anyOf"] if option.get("type") != "null"]
            if len(kept) == 1 and len(found["anyOf"]) == 2:
                del found["anyOf"]
                if found.get("default", "") is None:
                    del found["default"]  # an answer leaves out what nobody set
                if "type" in kept[0]:  # a number that is not finite is null; an object never is
                    kept[0] = {**kept[0], "type": [kept[0]["type"], "null"]}
                return plain({**kept[0], **found})
        found.pop("$defs", None)
        found.pop("title", None)
        if found.get("additionalProperties") is True:
            del found["additionalProperties"]
        return {key: plain(item, key == "properties") for key, item in found.items()}

    result: Schema = plain(schema)
    result.setdefault("properties", {})
    return result
