"""Writes JSON Schemas as Anthropic's API takes them: those of tools, and that of the answer."""

from typing import Any

import orjson

from agentmesh_llm.adapters.anthropic_marks import cache_mark
from agentmesh_llm.domain import Tool

_HOLD_SCHEMAS = {"items", "prefixItems", "anyOf", "allOf", "oneOf"}
_HOLD_NAMED_SCHEMAS = {"properties", "$defs", "definitions"}
_JSON_ONLY = "Answer with one JSON object and nothing else: no fence around it, no word before or after it."


def tool(described: Tool) -> dict[str, Any]:
    """Write a tool; one that is enforced has a closed schema."""
    schema = {"type": "object", **described.parameters}
    written: dict[str, Any] = {"name": described.name}
    if described.description:
        written["description"] = described.description
    written["input_schema"] = closed(schema) if described.strict else schema
    if described.strict is not None:
        written["strict"] = described.strict
    mark = described.cache_breakpoint
    return written if mark is None else written | cache_mark(mark)


def told(schema: dict[str, Any] | None) -> str:
    """Return the words that ask for JSON where nothing enforces it."""
    if schema is None:
        return _JSON_ONLY
    return f"{_JSON_ONLY} It fits this JSON Schema: {orjson.dumps(schema).decode()}"


def closed(schema: Any) -> Any:
    """Close every object that says what it holds, as the API demands; what fits the closed schema fits the open one."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    shut = dict(schema)
    for keyword in _HOLD_SCHEMAS & shut.keys():
        shut[keyword] = closed(shut[keyword])
    for keyword in _HOLD_NAMED_SCHEMAS & shut.keys():
        if isinstance(named := shut[keyword], dict):
            shut[keyword] = {name: closed(item) for name, item in named.items()}
    if shut.get("properties"):
        shut.setdefault("additionalProperties", False)
    return shut
