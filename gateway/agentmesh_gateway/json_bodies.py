"""Reads untrusted JSON: bounded in depth, and held against a model that names each wrong field by its path."""

from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from agentmesh.kit.errors import InvalidRequest
from agentmesh_gateway.json_faults import children_of

_MAX_FAULTS = 20
_Model = TypeVar("_Model", bound=BaseModel)


def value_of(body: bytes, max_depth: int) -> Any:
    """Return the JSON value of a body; raise InvalidRequest if it is none, or nested too deep."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"the body is not JSON: see {where}", reason="MALFORMED_JSON") from None
    if _deeper_than(value, max_depth):
        raise InvalidRequest(f"the body is nested more than {max_depth} levels deep", reason="TOO_DEEP")
    return value


def object_of(body: bytes, max_depth: int) -> dict[str, Any]:
    """Return the JSON object of a body, an empty one if there is no body; raise InvalidRequest."""
    if not body.strip():
        return {}
    value = value_of(body, max_depth)
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", reason="MALFORMED_JSON")
    return value


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [child for parent in level for child in children_of(parent)]
        if not level:
            return False
    return True


def validated(model: type[_Model], tree: Any) -> _Model:
    """Return the model of a JSON object; raise InvalidRequest with the path of each wrong field, never its value."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_FAULTS]
    violations = [(_path(fault["loc"]), _described(fault["type"], fault["msg"])) for fault in found]
    field, description = violations[0]
    raise InvalidRequest(f"{field or 'the body'} {description}", violations=violations)


def _path(places: tuple[int | str, ...]) -> str:
    path = ""
    for place in places:
        path += f"[{place}]" if isinstance(place, int) else f".{place}" if path else place
    return path


def _described(kind: str, message: str) -> str:
    if kind == "missing":
        return "is needed"
    if kind == "extra_forbidden":
        return "is not known here"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return "is wrong: " + message[:1].lower() + message[1:]
