"""Raw grpc.aio, one server process and one client: what every figure is divided by. Run, this is the server."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import psutil
import uvloop

from tests.bench.load import keep_in_flight, percentile

EVENTS_PER_STREAM = 50
"""As many as a task of B4 says."""
_PAYLOAD = b"x" * 50
_UNARY_IN_FLIGHT = 32
_PAIRS_IN_FLIGHT = 32
_STREAMS_IN_FLIGHT = 16
_START_S = 20.0
_CALL_S = 10.0


class Anchors:
    """The server as a child process, and a client of it. Use it as `async with Anchors() as anchors:`."""

    start_s: float
    """From the start of the server's process until it serves."""
    memory_mib: float
    """Resident memory of the server before its first call."""

    async def __aenter__(self) -> Self:
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.anchors"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                line = await asyncio.to_thread(self._process.stdout.readline)
            self.start_s = time.perf_counter() - began
            self.memory_mib = psutil.Process(self._process.pid).memory_info().rss / 2**20
            self._channel = grpc.aio.insecure_channel(json.loads(line)["address"])
        except BaseException:
            self._stop()
            raise
        self._echo = self._channel.unary_unary("/anchor.Anchor/Echo", _same, _same)
        self._stream = self._channel.unary_stream("/anchor.Anchor/Stream", _same, _same)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()
        self._stop()

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        return self._process.pid

    async def unary(self, seconds: float) -> float:
        """Return echo calls per second, 32 in flight."""
        return (await keep_in_flight(self._call, _UNARY_IN_FLIGHT, seconds)).per_second

    async def pairs(self, seconds: float) -> float:
        """Return server streams of two messages per second, 32 in flight."""
        return (await keep_in_flight(lambda: self._read(2), _PAIRS_IN_FLIGHT, seconds)).per_second

    async def events(self, seconds: float) -> float:
        """Return small messages per second in server streams of 50, 16 in flight."""
        loaded = await keep_in_flight(lambda: self._read(EVENTS_PER_STREAM), _STREAMS_IN_FLIGHT, seconds)
        return loaded.per_second * EVENTS_PER_STREAM

    async def idle_ms(self, calls: int) -> float:
        """Return the median of echo calls made one at a time, in milliseconds."""
        latencies = []
        for _ in range(calls):
            began = time.perf_counter()
            await self._call()
            latencies.append((time.perf_counter() - began) * 1000)
        return percentile(latencies, 50)

    def _stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    async def _call(self) -> None:
        if await self._echo(_PAYLOAD, timeout=_CALL_S) != _PAYLOAD:
            raise RuntimeError("the anchor's echo came back changed")

    async def _read(self, messages: int) -> None:
        call = self._stream(str(messages).encode(), timeout=_CALL_S)
        got = 0
        async for _ in call:
            got += 1
        if got != messages:
            raise RuntimeError(f"the anchor sent {got} messages instead of {messages}")


def _same(data: bytes) -> bytes:
    return data


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def _stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(int(request)):
        yield _PAYLOAD


async def _serve() -> None:
    """Serve until standard input closes, which it does when whoever started this is gone."""
    server = grpc.aio.server()
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echo, _same, _same),
        "Stream": grpc.unary_stream_rpc_method_handler(_stream, _same, _same),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("anchor.Anchor", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(_serve())
