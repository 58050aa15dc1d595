"""The smallest JSON for a schema fits the schema, by the judgement of a real validator."""

import json
from typing import Any

import jsonschema_rs
import pytest

from agentmesh.kit.errors import InvalidRequest
from agentmesh_llm.adapters.offline_json import example_json

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 18}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
OPEN = {name: value for name, value in PERSON.items() if name != "additionalProperties"}
SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    PERSON,
    {"type": "array", "items": PERSON, "minItems": 3},
    {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "boolean"}, "minItems": 2},
    {"type": "string", "minLength": 60, "maxLength": 70},
    {"type": "string", "maxLength": 3},
    {"type": "string", "format": "date"},
    {"type": ["null", "string"]},
    {"enum": ["red", "green"]},
    {"const": {"a": [1]}},
    {"type": "integer", "exclusiveMinimum": 5, "maximum": 6},
    {"type": "integer", "minimum": 7, "multipleOf": 5},
    {"type": "integer", "maximum": -3},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    {"anyOf": [{"type": "string", "pattern": "^a"}, PERSON]},
    {"allOf": [OPEN, {"properties": {"city": {"type": "string"}}}], "required": ["city"]},
    {"$defs": {"p": PERSON}, "type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}, "required": ["p"]},
    {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "minProperties": 2},
    {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    },
]
TWICE = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]}
REFUSED: list[dict[str, Any]] = [
    {"type": "string", "pattern": "^[a-z]+$"},
    {"not": {"type": "string"}},
    {"type": "integer", "minimum": 5, "maximum": 4},
    {"$ref": "https://example.invalid/schema"},
    {"$ref": "#/missing"},
    {"$ref": "#"},
    {"allOf": [{"$ref": "#"}]},
    TWICE,
    {"allOf": [PERSON, {"properties": {"city": {"type": "string"}}}], "required": ["city"]},
    {"type": "array", "minItems": 10_000_000},
    {"type": "text"},
    {"type": "object", "required": 3},
    {"type": "integer", "minimum": "a"},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_the_example_fits_its_schema(schema: dict[str, Any]) -> None:
    example = json.loads(example_json(schema, "Offline model: some text."))
    jsonschema_rs.Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize("schema", REFUSED, ids=json.dumps)
def test_what_cannot_be_filled_in_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        example_json(schema, "text")
    assert raised.value.reason == "OFFLINE_SCHEMA"
