"""Structs as Python data, quickly: json_format is ten times slower and makes every number a float."""

import math
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value


def to_python(struct: Struct) -> dict[str, Any]:
    """Read a Struct; a number without a fraction becomes an int, as JSON Schema wants it."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def fault_of(struct: Struct, *, max_depth: int = 16) -> str:
    """Return what is wrong with a Struct from outside, or nothing.

    A level of JSON is three of protobuf, whose parsers stop at 100: what is nested too deep could be stored, and
    then not be read by anyone. NaN and the infinities are no JSON.
    """
    return next((fault for value in struct.fields.values() if (fault := value_fault(value, max_depth))), "")


def value_fault(value: Value, max_depth: int = 16) -> str:
    """Return what is wrong with a Value from outside, or nothing; see `fault_of`."""
    if max_depth <= 0:
        return "is nested too deep: at most 16 levels"
    kind = value.WhichOneof("kind")
    if kind is None:
        return "holds a value without a kind"
    if kind == "number_value":
        return "" if math.isfinite(value.number_value) else "holds a number that is not finite"
    if kind == "struct_value":
        return fault_of(value.struct_value, max_depth=max_depth - 1)
    if kind == "list_value":
        return next((f for item in value.list_value.values if (f := value_fault(item, max_depth - 1))), "")
    return ""


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return to_python(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    return None
