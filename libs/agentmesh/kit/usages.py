"""Adds up what calls to models used, wherever several make one sum."""

from typing import Final

from agentmesh.api.types.v1 import types_pb2

NANO: Final = 1_000_000_000
"""Money is counted in whole billionths of a US dollar."""
COUNTS: Final = tuple(field.name for field in types_pb2.Usage.DESCRIPTOR.fields if field.type == field.TYPE_INT64)
"""The fields of a Usage that are counts."""


def add(total: types_pb2.Usage, used: types_pb2.Usage) -> None:
    """Add every count of `used` to `total`."""
    for name in COUNTS:
        if count := getattr(used, name):
            setattr(total, name, getattr(total, name) + count)
