"""HTTP in, messages out, and back: paths, queries and bodies become requests; responses become protobuf JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from agentmesh.kit.errors import InvalidRequest
from agentmesh_gateway import problems
from agentmesh_gateway.json_bodies import object_of, value_of
from agentmesh_gateway.json_faults import faults_of, field_named, is_map, is_well_known
from agentmesh_gateway.routes import Route

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def request_of(
    route: Route, path: Mapping[str, str], query: Sequence[tuple[str, str]], body: bytes, *, max_depth: int
) -> Message:
    """Build a method's request; raise InvalidRequest that names every field that is wrong."""
    descriptor = route.method.input_type
    tree: dict[str, Any] = {}
    if route.body == "*":
        tree = object_of(body, max_depth)
    elif route.body:
        field = descriptor.fields_by_name[route.body]
        tree = {field.json_name: value_of(body, max_depth)} if body else {}
    if query and route.body == "*":
        name = query[0][0]
        raise problems.invalid(name, "is in the query, but this method takes its fields from the body")
    for name, values in _grouped(query).items():
        if name.partition(".")[0] == route.body:
            raise problems.invalid(name, "belongs in the body")
        _put(tree, descriptor, name, values)
    for name, value in path.items():
        _put_path(tree, descriptor, name, value)
    return parse(tree, descriptor, max_depth=max_depth)


def parse(tree: dict[str, Any], descriptor: Descriptor, *, max_depth: int) -> Message:
    """Turn JSON values into a message; raise InvalidRequest."""
    message = GetMessageClass(descriptor)()
    faults = faults_of(tree, descriptor)
    if faults:
        raise _refusal(faults)
    try:
        json_format.ParseDict(tree, message, max_recursion_depth=max_depth + 8)
    except (json_format.ParseError, ValueError, TypeError, RecursionError):
        raise _refusal(faults_of(tree, descriptor, values=True) or [("", "is not what the method takes")]) from None
    return message


def json_of(message: Message, field: str = "") -> Any:
    """Return a message, or one field of it, as protobuf JSON values."""
    try:
        tree = json_format.MessageToDict(message)
    except json_format.SerializeToJsonError:
        # A Value can hold NaN, which JSON can't: one such number must not make a task unreadable.
        spelled = type(message)()
        spelled.CopyFrom(message)
        _spell_numbers(spelled)
        tree = json_format.MessageToDict(spelled)
    return tree.get(message.DESCRIPTOR.fields_by_name[field].json_name) if field else tree


def _grouped(query: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in query:
        grouped.setdefault(name, []).append(value)
    return grouped


def _put(tree: dict[str, Any], descriptor: Descriptor, path: str, values: list[str]) -> None:
    """Set a field that the query names by its dotted path, in either spelling."""
    *parents, last = path.split(".")
    for part in parents:
        parent = field_named(descriptor, part)
        if parent is None or parent.message_type is None or parent.is_repeated or is_well_known(parent.message_type):
            raise problems.invalid(path, "is not known here")
        tree, descriptor = tree.setdefault(parent.json_name, {}), parent.message_type
    field = field_named(descriptor, last)
    if field is None:
        raise problems.invalid(path, "is not known here")
    if field.json_name in tree:
        raise problems.invalid(path, "is given twice")
    if is_map(field) or (field.message_type is not None and not is_well_known(field.message_type)):
        raise problems.invalid(path, "can't be written in a query")
    if field.is_repeated:
        tree[field.json_name] = [_from_text(field, value, path) for value in values]
    elif len(values) > 1:
        raise problems.invalid(path, "is given twice")
    else:
        tree[field.json_name] = _from_text(field, values[0], path)


def _from_text(field: FieldDescriptor, text: str, path: str) -> Any:
    if field.type == FieldDescriptor.TYPE_BOOL:
        if text.lower() not in _BOOLEANS:
            raise problems.invalid(path, "must be true or false")
        return _BOOLEANS[text.lower()]
    if field.message_type is not None and field.message_type.full_name in (
        struct_pb2.Struct.DESCRIPTOR.full_name,
        struct_pb2.Value.DESCRIPTOR.full_name,
        struct_pb2.ListValue.DESCRIPTOR.full_name,
    ):
        try:
            return json.loads(text)
        except ValueError:
            raise problems.invalid(path, "must be JSON") from None
    return text


def _put_path(tree: dict[str, Any], descriptor: Descriptor, path: str, text: str) -> None:
    *parents, last = path.split(".")
    for part in parents:
        parent = descriptor.fields_by_name[part]
        assert parent.message_type is not None  # the contract would not have loaded
        tree, descriptor = tree.setdefault(parent.json_name, {}), parent.message_type
        if not isinstance(tree, dict):
            raise problems.invalid(parent.json_name, "must be a JSON object")
    field = descriptor.fields_by_name[last]
    for spelling in {field.json_name, field.name}:
        if tree.get(spelling, text) != text:
            raise problems.invalid(spelling, "differs from the one in the path")
        tree.pop(spelling, None)
    tree[field.json_name] = _from_text(field, text, path)


def _refusal(faults: Sequence[tuple[str, str]]) -> InvalidRequest:
    field, description = faults[0]
    shown = f"{field} {description}" if field else f"the message {description}"
    return InvalidRequest(f"a field is wrong: {shown}", violations=list(faults))


def _spell_numbers(message: Message) -> None:
    if isinstance(message, struct_pb2.Value) and not math.isfinite(message.number_value):
        number = message.number_value
        message.string_value = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if is_map(field):
            values = [value[key] for key in value] if field.message_type.fields_by_name["value"].message_type else []
        else:
            values = list(value) if field.is_repeated else [value]
        for child in values:
            _spell_numbers(child)
