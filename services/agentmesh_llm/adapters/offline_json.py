"""Writes the smallest JSON that fits a JSON Schema, so that agents which demand JSON work offline."""

import json
import math
from typing import Any

from agentmesh.kit.errors import InvalidRequest

_MAX_DEPTH = 32
_MAX_ITEMS = 1000
_MAX_VALUES = 10_000
_MAX_CHARACTERS = 64 * 1024
_FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT0S",
    "email": "offline@example.invalid",
    "hostname": "example.invalid",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.invalid/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_IMPLIED = (("properties", "object"), ("required", "object"), ("items", "array"), ("minimum", "number"))


def example_json(schema: dict[str, Any], text: str) -> str:
    """Return JSON that fits `schema`, with `text` where a string may say anything.

    Raises InvalidRequest, reason OFFLINE_SCHEMA, for what would need more than filling in: patterns, `not`,
    conditions, several schemas at once that are no objects, schemas without an end.
    """
    try:
        return json.dumps(_Example(schema, text).of(schema, 0), ensure_ascii=False)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise _refused("it is no JSON Schema") from None


class _Example:
    def __init__(self, root: dict[str, Any], text: str) -> None:
        self._root = root
        self._text = text
        self._values_left = _MAX_VALUES

    def of(self, schema: Any, depth: int) -> Any:
        # Two references that name each other twice would double with each level.
        self._values_left -= 1
        if depth > _MAX_DEPTH or self._values_left < 0:
            raise _refused("it has no end")
        if schema is True or schema == {}:
            return self._text
        if not isinstance(schema, dict):
            raise _refused("nothing fits it")
        if any(key in schema for key in ("pattern", "not", "if", "dependentSchemas", "patternProperties")):
            raise _refused("patterns and conditions need a real model")
        if "const" in schema:
            return schema["const"]
        for key in ("enum", "examples"):
            if isinstance(schema.get(key), list) and schema[key]:
                return schema[key][0]
        if "$ref" in schema:
            return self.of(self._resolve(schema["$ref"]), depth + 1)
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list) and schema[key]:
                return self._first_that_works(schema, schema[key], key, depth)
        if isinstance(schema.get("allOf"), list) and schema["allOf"]:
            return self.of(self._merged(schema), depth + 1)
        return self._of_type(schema, depth)

    def _of_type(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type") or next((kind for key, kind in _IMPLIED if key in schema), "string")
        if isinstance(kind, list):
            # "string or null" says more as a string.
            kind = next((each for each in kind if each != "null"), "null")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            count = _whole(schema.get("minItems", 0), _MAX_ITEMS)
            if count > 1 and schema.get("uniqueItems"):
                raise _refused("different items need a real model")
            first = schema.get("prefixItems") or []
            rest = schema.get("items", True)
            return [self.of(first[at] if at < len(first) else rest, depth + 1) for at in range(count)]
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        if kind == "string":
            return self._string(schema)
        if kind in ("boolean", "null"):
            return False if kind == "boolean" else None
        raise _refused("it names a type that JSON doesn't have")

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        result = {
            name: self.of(properties.get(name, schema.get("additionalProperties", True)), depth + 1)
            for name in schema.get("required") or ()
        }
        for name, value in properties.items():
            if len(result) >= _whole(schema.get("minProperties", 0), _MAX_ITEMS):
                break
            if name not in result:
                result[name] = self.of(value, depth + 1)
        if len(result) < _whole(schema.get("minProperties", 0), _MAX_ITEMS):
            raise _refused("it wants properties that it doesn't name")
        return result

    def _string(self, schema: dict[str, Any]) -> str:
        if "format" in schema:
            if schema["format"] not in _FORMATS:
                raise _refused("it wants a format that is not known here")
            return _FORMATS[schema["format"]]
        least = _whole(schema.get("minLength", 0), _MAX_CHARACTERS)
        most = schema.get("maxLength", _MAX_CHARACTERS)
        return self._text[: max(0, int(most))].ljust(least, ".")

    def _first_that_works(self, schema: dict[str, Any], options: list[Any], key: str, depth: int) -> Any:
        around = {name: value for name, value in schema.items() if name != key}
        refusal = _refused("nothing fits it")
        for option in options:
            try:
                return self.of(self._merged({**around, "allOf": [option]}), depth + 1)
            except InvalidRequest as refused:
                refusal = refused
        raise refusal

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Put the schemas of `allOf` into the one around them."""
        merged = {name: value for name, value in schema.items() if name != "allOf"}
        is_closed = merged.get("additionalProperties") is False
        closed = [set(merged.get("properties", {}))] if is_closed else []
        for part in schema["allOf"]:
            for _ in range(_MAX_DEPTH):
                if isinstance(part, dict) and set(part) == {"$ref"}:
                    part = self._resolve(part["$ref"])
            if not isinstance(part, dict):
                raise _refused("nothing fits it")
            if part.get("additionalProperties") is False:
                closed.append(set(part.get("properties", {})))
            for name, value in part.items():
                if name == "properties":
                    known = merged.get(name, {})
                    if any(known[each] != value[each] for each in known.keys() & value.keys()):
                        raise _refused("it joins schemas that say different things")
                    value = {**known, **value}
                elif name == "required":
                    value = [*merged.get(name, []), *value]
                elif name in merged and merged[name] != value and name not in ("title", "description"):
                    raise _refused("it joins schemas that say different things")
                merged[name] = value
        if any(set(merged.get("required", ())) - names for names in closed):
            raise _refused("it demands what a part of it forbids")
        return merged

    def _resolve(self, reference: Any) -> Any:
        target: Any = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _refused("it points outside of itself")
        for step in filter(None, reference[1:].split("/")):
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or step not in target:
                raise _refused("it points to nothing")
            target = target[step]
        return target


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    low = schema.get("minimum", -math.inf)
    above = schema.get("exclusiveMinimum", -math.inf)
    high = schema.get("maximum", math.inf)
    below = schema.get("exclusiveMaximum", math.inf)
    step = schema.get("multipleOf", 1)
    if not all(isinstance(bound, int | float) for bound in (low, above, high, below, step)) or step <= 0:
        raise _refused("its bounds are no numbers")
    candidates: list[float] = [0, 1, -1, step, -step]
    for bound in (low, above):
        if math.isfinite(bound):
            first = math.ceil(bound / step) * step
            candidates += [first, first + step, bound]
    for bound in (high, below):
        if math.isfinite(bound):
            last = math.floor(bound / step) * step
            candidates += [last, last - step, bound]
    finite = [bound for bound in (max(low, above), min(high, below)) if math.isfinite(bound)]
    candidates.append(sum(finite) / (len(finite) or 1))
    for value in candidates:
        fits = low <= value <= high and above < value < below
        fits = fits and ("multipleOf" not in schema or (value / step).is_integer())
        if fits and (not whole or float(value).is_integer()):
            return int(value) if float(value).is_integer() else value
    raise _refused("no number fits it")


def _whole(value: Any, most: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise _refused("it wants more than the offline model writes")
    return value


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(
        "the offline model can't fill this schema",
        reason="OFFLINE_SCHEMA",
        violations=[("response_format.schema", why)],
    )
