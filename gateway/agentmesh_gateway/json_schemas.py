"""JSON Schemas of tools and answers, as the contract's messages hold them."""

from typing import Any

from google.protobuf import struct_pb2

from agentmesh.kit import structs

# A level of JSON is three of protobuf, whose parsers stop at 100.
_MAX_DEPTH = 28


def struct_of(value: dict[str, Any]) -> struct_pb2.Struct:
    """Write a JSON object as a Struct; raise ValueError if no parser would read it back."""
    struct = struct_pb2.Struct()
    struct.update(value)
    if structs.fault_of(struct, max_depth=_MAX_DEPTH):
        raise ValueError(f"is nested too deep: at most {_MAX_DEPTH} levels")
    return struct
