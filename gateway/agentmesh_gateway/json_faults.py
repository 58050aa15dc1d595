"""Finds what is wrong in JSON that should be a message, and names each field by its path."""

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

_MAX_FAULTS = 20
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")

_EXPECTED = {
    FieldDescriptor.CPPTYPE_INT32: "must be a 32-bit integer",
    FieldDescriptor.CPPTYPE_UINT32: "must be a 32-bit integer, not negative",
    FieldDescriptor.CPPTYPE_INT64: "must be a 64-bit integer",
    FieldDescriptor.CPPTYPE_UINT64: "must be a 64-bit integer, not negative",
    FieldDescriptor.CPPTYPE_DOUBLE: "must be a number",
    FieldDescriptor.CPPTYPE_FLOAT: "must be a number",
    FieldDescriptor.CPPTYPE_BOOL: "must be true or false",
    FieldDescriptor.CPPTYPE_STRING: "must be text",
}
_EXPECTED_MESSAGES = {
    "google.protobuf.Timestamp": "must be an RFC 3339 time such as 2030-01-31T12:00:00Z",
    "google.protobuf.Duration": 'must be seconds such as "1.5s"',
    "google.protobuf.Struct": "must be a JSON object",
    "google.protobuf.ListValue": "must be a JSON array",
}


def faults_of(tree: Any, descriptor: Descriptor, *, values: bool = False) -> list[tuple[str, str]]:
    """Return at most 20 pairs of a field's path and what is wrong with it.

    Finds unknown fields, wrong shapes and bytes that aren't base64, which the protobuf parser would read as
    nothing; with `values`, also every single value that the parser refuses.
    """
    faults: list[tuple[str, str]] = []
    for fault in _walk(tree, descriptor, "", values):
        faults.append(fault)
        if len(faults) == _MAX_FAULTS:
            break
    return faults


def field_named(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    """Return the field that has this name in JSON or in the proto file."""
    return descriptor.fields_by_camelcase_name.get(name) or descriptor.fields_by_name.get(name)


def is_map(field: FieldDescriptor) -> bool:
    """Whether JSON writes the field as an object of entries."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def is_well_known(descriptor: Descriptor) -> bool:
    """Whether JSON writes the message in a form of its own."""
    return descriptor.full_name.startswith("google.protobuf.")


def children_of(value: Any) -> list[Any]:
    """Return what a JSON value holds."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _walk(tree: Any, descriptor: Descriptor, path: str, values: bool) -> Iterator[tuple[str, str]]:
    if not isinstance(tree, dict):
        yield path, "must be a JSON object"
        return
    seen: dict[str, str] = {}
    for key, value in tree.items():
        field = field_named(descriptor, key)
        here = f"{path}.{key}" if path else key
        if field is None:
            yield here, "is not known here"
            continue
        group = field.containing_oneof.name if field.containing_oneof and value is not None else field.name
        if group in seen:
            yield here, "is given twice" if group == field.name else f"can't be set together with {seen[group]}"
        seen[group] = key
        yield from _field(field, value, here, values)


def _field(field: FieldDescriptor, value: Any, path: str, values: bool) -> Iterator[tuple[str, str]]:
    if value is None:
        return  # stands for an absent field
    if is_map(field):
        assert field.message_type is not None
        if not isinstance(value, dict):
            yield path, "must be a JSON object"
            return
        entry = field.message_type.fields_by_name["value"]
        for key, item in value.items():
            yield from _single(entry, item, f"{path}.{key}", values)
    elif field.is_repeated:
        if not isinstance(value, list):
            yield path, "must be a JSON array"
            return
        for number, item in enumerate(value):
            yield from _single(field, item, f"{path}[{number}]", values)
    else:
        yield from _single(field, value, path, values)


def _single(field: FieldDescriptor, value: Any, path: str, values: bool) -> Iterator[tuple[str, str]]:
    message = field.message_type
    if message is not None and not is_well_known(message):
        yield from _walk(value, message, path, values)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        if not isinstance(value, str) or not _BASE64.fullmatch(value) or len(value.rstrip("=")) % 4 == 1:
            yield path, "must be base64"
    elif values and not _parses(field, value):
        yield path, _expected(field)


def _parses(field: FieldDescriptor, value: Any) -> bool:
    owner = field.containing_type
    assert owner is not None  # every field but an extension has one
    probe = GetMessageClass(owner)()
    try:
        json_format.ParseDict({field.json_name: [value] if field.is_repeated else value}, probe)
    except (json_format.ParseError, ValueError, TypeError, RecursionError):
        return False
    return True


def _expected(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return _EXPECTED_MESSAGES.get(field.message_type.full_name, "has the wrong form")
    if field.enum_type is not None:
        return f"must be one of {', '.join(value.name for value in field.enum_type.values)}"
    return _EXPECTED.get(field.cpp_type, "has the wrong form")
