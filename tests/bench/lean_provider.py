"""A provider that is never what limits a row: prepared bytes, no parsing but of the model's name. Run, it serves.

| model | what it does |
|---|---|
| lean | a short answer at once, in one piece |
| paced | an answer of PACED_CHUNKS chunks, PACE_S apart, each with the time at which it was sent |
| burst | an answer of BURST_CHUNKS chunks, each written on its own, as fast as they are taken |
| away | 404 |
| vectors | a vector for each text |
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import uvloop

PACED_CHUNKS, PACE_S = 40, 0.02
BURST_CHUNKS = 200
MODELS = ("lean", "paced", "burst", "away")
VECTORS = "vectors-of-lean"
_VECTOR = [0.5] * 8
_TEXT = "A river carries water to the sea."


def _event(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "lean-1"}
    return b"data: " + json.dumps({**frame, "choices": [choice]}).encode() + b"\n\n"


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


_USAGE = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
_END = (
    _event({}, "stop")
    + b"data: "
    + json.dumps({"id": "chatcmpl-1", "model": "lean-1", "choices": [], "usage": _USAGE}).encode()
    + b"\n\ndata: [DONE]\n\n"
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FIRST = _event({"role": "assistant", "content": ""})
_LEAN = _HEAD + _chunked(_FIRST + b"".join(_event({"content": f" {w}"}) for w in _TEXT.split()) + _END) + b"0\r\n\r\n"
_BURST = [_chunked(_event({"content": f" {number}"})) for number in range(BURST_CHUNKS)]
_LAST = _chunked(_END) + b"0\r\n\r\n"
_AWAY = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._room = asyncio.Event()
        self._room.set()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def connection_lost(self, _: Exception | None) -> None:
        self._room.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        at = head.index(b"content-length:") + len(b"content-length:")
        size = int(head[at : at + 12].partition(b"\r")[0])
        if len(self._buffer) < end + 4 + size:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + size])
        del self._buffer[: end + 4 + size]
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        if b'"model":"lean"' in body:
            self._transport.write(_LEAN)
        elif b'"model":"away"' in body:
            self._transport.write(_AWAY)
        elif b'"model":"vectors' in body:
            self._transport.write(_vectors(len(json.loads(body)["input"])))
        else:
            answer = self._paced if b'"model":"paced"' in body else self._burst
            self._task = asyncio.get_running_loop().create_task(answer())

    async def _paced(self) -> None:
        self._transport.write(_HEAD)
        for _ in range(PACED_CHUNKS):
            await asyncio.sleep(PACE_S)
            self._transport.write(_chunked(_event({"content": f"{time.monotonic_ns()} "})))
        self._transport.write(_LAST)

    async def _burst(self) -> None:
        self._transport.write(_HEAD + _chunked(_FIRST))
        for chunk in _BURST:
            self._transport.write(chunk)
            # uvloop sends what is written in one turn of the loop as one.
            await asyncio.sleep(0)
            await self._room.wait()
        self._transport.write(_LAST)


def _vectors(count: int) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": _VECTOR} for index in range(count)]
    body = json.dumps({"data": data, "model": "lean-1", "usage": {"prompt_tokens": count}}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def _serve(port: int, ready: Callable[[], None]) -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port)
    async with server:
        ready()
        await server.serve_forever()


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="A provider of models that answers at once.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port, lambda: print("ready", flush=True)))


if __name__ == "__main__":
    sys.exit(main())
