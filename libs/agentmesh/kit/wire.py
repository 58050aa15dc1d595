"""What several programs need to know of tasks on the wire."""

from typing import Final

from agentmesh.api.task.v1 import events_pb2

TERMINAL: Final = frozenset(
    {
        events_pb2.TASK_STATE_COMPLETED,
        events_pb2.TASK_STATE_FAILED,
        events_pb2.TASK_STATE_CANCELED,
        events_pb2.TASK_STATE_REJECTED,
    }
)
"""The states in which a task has ended."""


def varint(number: int) -> bytes:
    """Write a number that is not negative as protobuf's variable-length integer."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
