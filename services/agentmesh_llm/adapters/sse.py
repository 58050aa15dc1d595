"""Cuts a stream of bytes into server-sent events, because providers write their answers that way."""

from agentmesh.kit.errors import Unavailable

_BOM = b"\xef\xbb\xbf"
_LF, _CR = b"\n\r"  # as numbers they are found ten times as fast as as bytes


class SseParser:
    """Collects bytes and returns the data of each event that is complete.

    It works on bytes, so a character that is split between two reads is never broken. What is not yet followed
    by a blank line is not an event: at the end of a stream it is dropped, as the format demands.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._after_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes; raise Unavailable if one grows beyond the bound."""
        if not self._started:
            chunk = self._rest + chunk
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._rest = chunk
                return []
            self._started = True
            self._rest = b""
            chunk = chunk.removeprefix(_BOM)
        if self._after_cr or _CR in chunk:
            chunk = self._only_lf(chunk)
        blocks = (self._rest + chunk).split(b"\n\n")
        self._rest = blocks.pop()
        if len(self._rest) > self._max_event_bytes:
            raise Unavailable("the provider sent an endless event", reason="PROVIDER_GARBAGE")
        events = []
        for block in blocks:
            if block.startswith(b"data:") and _LF not in block:
                events.append(block[6:] if block.startswith(b"data: ") else block[5:])
            elif (data := _data_of(block)) is not None:
                events.append(data)
        return events

    def _only_lf(self, chunk: bytes) -> bytes:
        # A carriage return ends its line at once; the line feed of a pair may come with the next read.
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data_of(block: bytes) -> bytes | None:
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
