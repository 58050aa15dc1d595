"""What the runner's main process and its host processes say to each other: small frames over a socket."""

import asyncio
import struct
from dataclasses import dataclass
from enum import IntEnum

_HEAD = struct.Struct("!BIBI")  # kind, number of the exchange, length of the method's name, length of the payload
UNTIL = struct.Struct("!d")
"""What the runner writes into a host's lifeline: until when it may work, by the clock of leases."""
MAX_FRAME_BYTES = 300 * 1024 * 1024


class Kind(IntEnum):
    """What a frame is."""

    ASSIGN = 1  # down: an Assignment
    STOP = 2  # down
    REPLY = 3  # down: the answer to a call
    ITEM = 4  # down: one piece of a streamed answer
    ERROR = 5  # down: a google.rpc.Status instead of an answer
    SAY = 6  # up: an EventBatch with events and steps only
    CALL = 7  # up: something asked of the mesh
    OUTCOME = 8  # up: an Outcome; its number counts threads that still run
    WAITING = 9  # up: an Outcome.Release that names what is waited for
    WORKING = 10  # up: it goes on


@dataclass(slots=True)
class Frame:
    """One frame."""

    kind: Kind
    number: int = 0
    method: str = ""
    payload: bytes = b""


def write_frame(writer: asyncio.StreamWriter, frame: Frame) -> None:
    """Queue a frame; await `writer.drain()` where it matters."""
    method = frame.method.encode()
    writer.write(_HEAD.pack(frame.kind, frame.number, len(method), len(frame.payload)) + method + frame.payload)


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Return the next frame; raises IncompleteReadError at the end."""
    kind, number, method_length, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    if length > MAX_FRAME_BYTES:
        raise ValueError("a frame is too large")
    method = (await reader.readexactly(method_length)).decode() if method_length else ""
    payload = await reader.readexactly(length) if length else b""
    return Frame(Kind(kind), number, method, payload)
