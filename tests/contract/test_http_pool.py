"""What goes out on a provider's connection and what comes back, seen from the other end of the socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.http import HttpProcessingError

from agentmesh.kit.model_settings import ProviderPool
from agentmesh_llm.adapters.http_pool import HttpAnswer, HttpPool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Behaviour = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One connection as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[list[str], bytes]:
        """Return a request's lines and its body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        length = next(int(line.split(": ")[1]) for line in head if line.lower().startswith("content-length"))
        return head, await self.reader.readexactly(length)

    def answer(self, data: bytes) -> None:
        self.writer.write(data)

    async def is_left(self) -> bool:
        """Wait until the client closes; say so."""
        return await self.reader.read() == b""


@asynccontextmanager
async def pool_to(
    behave: Behaviour, *, headers: dict[str, str] | None = None, idle_timeout_s: float = 5.0
) -> AsyncIterator[HttpPool]:
    """Serve as `behave` does on each connection; what goes wrong there fails the test."""
    faults: list[BaseException] = []
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            await behave(Peer(reader, writer))
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - told below
            faults.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**22)
    port = server.sockets[0].getsockname()[1]
    pool = HttpPool(f"http://127.0.0.1:{port}/v1", headers or {}, ProviderPool(idle_timeout_s=idle_timeout_s))
    try:
        yield pool
    finally:
        await pool.aclose()
        server.close()
        for task in serving:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in serving if task is not None))
    assert faults == []


async def read_all(answer: HttpAnswer) -> bytes:
    body = b""
    while piece := await answer.read():
        body += piece
    return body


async def test_a_request_is_complete_and_carries_the_credential_and_the_trace() -> None:
    seen: list[tuple[list[str], bytes]] = []

    async def behave(peer: Peer) -> None:
        for _ in range(2):
            seen.append(await peer.request())
            peer.answer(OK)

    async with pool_to(behave, headers={"Authorization": "Bearer KEY"}) as pool:
        assert await read_all(await pool.post("/chat", b'{"a":1}', TRACEPARENT)) == b"hi"
        assert await read_all(await pool.post("/chat", b"{}")) == b"hi"
    [(lines, body), (plain, _)] = seen
    names = [line.partition(":")[0].lower() for line in lines[1:]]
    assert lines[0] == "POST /v1/chat HTTP/1.1"
    assert {"authorization: bearer key", "accept-encoding: identity", "content-type: application/json"} <= {
        line.lower() for line in lines
    }
    assert sorted(names) == sorted(set(names))
    assert {"host", "user-agent", "content-length"} <= set(names)
    assert f"traceparent: {TRACEPARENT}" in lines
    assert body == b'{"a":1}'
    assert not any("traceparent" in line for line in plain)


async def test_a_connection_is_used_again_after_an_answer_that_was_read_and_closed_with_one_that_was_not() -> None:
    connections = 0
    left = asyncio.Event()

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            for _ in range(2):
                await peer.request()
                peer.answer(OK)
        await peer.request()
        peer.answer(CHUNKED + b"2\r\nhi\r\n")
        if await peer.is_left():
            left.set()

    async with pool_to(behave) as pool:
        for _ in range(2):
            answer = await pool.post("/chat", b"{}")
            assert (answer.status, await read_all(answer), answer.at_end()) == (200, b"hi", True)
            answer.close()
        unread = await pool.post("/chat", b"{}")
        assert (await unread.read(), unread.at_end()) == (b"hi", False)
        unread.close()
        unread.close()
        async with asyncio.timeout(5):
            await left.wait()
        again = await pool.post("/chat", b"{}")
        assert connections == 2
        again.close()


async def test_what_only_says_that_an_answer_will_come_is_passed_over() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        peer.answer(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        peer.answer(b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")

    async with pool_to(behave) as pool:
        answer = await pool.post("/chat", b"{}")
        assert (answer.status, answer.headers["retry-after"], await answer.read()) == (429, "7", b"")


async def test_a_long_request_is_sent_whole() -> None:
    long = b"x" * 3_000_000

    async def behave(peer: Peer) -> None:
        await asyncio.sleep(0.05)  # so that it doesn't fit into the socket
        _, body = await peer.request()
        peer.answer(OK if body == long else b"HTTP/1.1 400 Bad\r\n\r\n")

    async with pool_to(behave) as pool:
        assert (await pool.post("/chat", long)).status == 200


async def test_the_wait_for_an_answer_begins_when_a_long_request_is_sent() -> None:
    async def behave(peer: Peer) -> None:
        await asyncio.sleep(1.2)  # less than the server may be silent, but twice is more
        await peer.request()
        await asyncio.sleep(1.2)
        peer.answer(OK)

    async with pool_to(behave, idle_timeout_s=2) as pool:
        assert (await pool.post("/chat", b"x" * 30_000_000)).status == 200


@pytest.mark.parametrize("body", [b"{}", b"x" * 30_000_000], ids=["short", "long"])
async def test_a_server_that_neither_reads_nor_answers_is_left_in_time(body: bytes) -> None:
    async def behave(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with pool_to(behave, idle_timeout_s=0.1) as pool:
        with pytest.raises(TimeoutError):
            await pool.post("/chat", body)


async def test_a_connection_that_nobody_reads_from_is_no_silent_one() -> None:
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await peer.request()
            peer.answer(OK)

    async with pool_to(behave, idle_timeout_s=0.2) as pool:
        for _ in range(2):
            assert await read_all(await pool.post("/chat", b"{}")) == b"hi"
            await asyncio.sleep(0.4)
    assert connections == 1


async def test_silence_within_an_answer_is_left_in_time() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        peer.answer(CHUNKED + b"2\r\nhi\r\n")
        assert await peer.is_left()

    async with pool_to(behave, idle_timeout_s=0.2) as pool:
        answer = await pool.post("/chat", b"{}")
        assert await answer.read() == b"hi"
        with pytest.raises(TimeoutError):
            await answer.read()
        answer.close()


@pytest.mark.parametrize(
    ("said", "error"),
    [(b"", aiohttp.ClientError), (b"SMTP ready\r\n\r\n", HttpProcessingError), (CHUNKED[:20], aiohttp.ClientError)],
    ids=["nothing", "garbage", "half a head"],
)
async def test_a_connection_that_ends_without_an_answer_is_an_error(said: bytes, error: type[Exception]) -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        peer.answer(said)

    async with pool_to(behave) as pool:
        with pytest.raises(error):
            await pool.post("/chat", b"{}")


async def test_a_caller_that_leaves_closes_the_connection() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def behave(peer: Peer) -> None:
        await peer.request()
        asked.set()
        if await peer.is_left():
            left.set()

    async with pool_to(behave) as pool:
        task = asyncio.create_task(pool.post("/chat", b"{}"))
        async with asyncio.timeout(5):
            await asked.wait()
            task.cancel()
            await left.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_credential_with_a_line_end_never_goes_out() -> None:
    async def behave(peer: Peer) -> None:
        raise AssertionError("something was sent")

    async with pool_to(behave, headers={"Authorization": "Bearer KEY\r\nX-Other: 1"}) as pool:
        with pytest.raises(ValueError, match="line end") as raised:
            await pool.post("/chat", b"{}")
        assert "KEY" not in str(raised.value)
