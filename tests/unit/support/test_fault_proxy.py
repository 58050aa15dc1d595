"""Each fault of the proxy is what it says, and heals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.support.fault_proxy import FaultProxy

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Server:
    """Says every line back, and remembers it."""

    address: str = ""
    heard: list[bytes] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                async with self.news:
                    self.heard.append(line)
                    self.news.notify_all()
                writer.write(line)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def until_heard(self, line: bytes) -> None:
        async with asyncio.timeout(10), self.news:
            await self.news.wait_for(lambda: line in self.heard)


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[FaultProxy, Server]]:
    server = Server()
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        with FaultProxy(server.address) as proxy:
            yield proxy, server
    finally:
        listening.close()


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Connection]:
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(connection: Connection, line: bytes) -> bytes:
    """Send a line and return what comes back; an end instead of that counts as a reset."""
    reader, writer = connection
    writer.write(line)
    if answer := await asyncio.wait_for(reader.readline(), 10):
        return answer
    raise ConnectionResetError


async def ask_anew(proxy: FaultProxy, line: bytes) -> bytes:
    """Ask over a connection of its own, which may be reset before it is open."""
    async with connected(proxy) as connection:
        return await ask(connection, line)


async def test_a_healthy_proxy_forwards_both_ways() -> None:
    async with proxied() as (proxy, server), connected(proxy) as connection:
        assert await ask(connection, b"one\n") == b"one\n"
        assert server.heard == [b"one\n"]
        assert proxy.accepted == 1


async def test_an_end_of_input_reaches_the_other_side() -> None:
    async with proxied() as (proxy, _), connected(proxy) as (reader, writer):
        writer.write(b"one\n")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b"one\n"


async def test_a_delay_holds_in_both_directions() -> None:
    async with proxied() as (proxy, _), connected(proxy) as connection:
        await ask(connection, b"warm\n")
        proxy.delay(40)
        start = asyncio.get_running_loop().time()
        await ask(connection, b"late\n")
        assert asyncio.get_running_loop().time() - start >= 0.08


async def test_a_black_hole_takes_everything_and_says_nothing_until_it_heals() -> None:
    async with proxied() as (proxy, server), connected(proxy) as connection:
        await ask(connection, b"before\n")
        proxy.blackhole()
        asking = asyncio.create_task(ask(connection, b"lost\n"))
        async with connected(proxy) as other:
            also = asyncio.create_task(ask(other, b"new\n"))
            _, waiting = await asyncio.wait({asking, also}, timeout=0.1)
            assert waiting == {asking, also}
            assert server.heard == [b"before\n"]
            proxy.heal()
            assert await asking == b"lost\n"
            assert await also == b"new\n"


async def test_a_reset_ends_open_connections_and_no_new_one() -> None:
    async with proxied() as (proxy, _), connected(proxy) as connection:
        await ask(connection, b"one\n")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await ask(connection, b"two\n")
        async with connected(proxy) as other:
            assert await ask(other, b"three\n") == b"three\n"


async def test_refusing_ends_new_connections_too() -> None:
    async with proxied() as (proxy, server):
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            await ask_anew(proxy, b"one\n")
        assert server.heard == []
        proxy.heal()
        assert await ask_anew(proxy, b"two\n") == b"two\n"


async def test_a_half_closed_connection_still_carries_requests() -> None:
    async with proxied() as (proxy, server), connected(proxy) as connection:
        await ask(connection, b"one\n")
        proxy.half_close()
        with pytest.raises(ConnectionResetError):
            await ask(connection, b"two\n")
        await server.until_heard(b"two\n")


async def test_a_reply_is_cut_after_so_many_bytes() -> None:
    async with proxied() as (proxy, _), connected(proxy) as connection:
        proxy.cut_after(6)
        assert await ask(connection, b"one\n") == b"one\n"
        reader, writer = connection
        writer.write(b"two\n")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await asyncio.wait_for(reader.readexactly(4), 10)


async def test_a_dropped_reply_leaves_the_request_done() -> None:
    async with proxied() as (proxy, server), connected(proxy) as connection, connected(proxy) as other:
        proxy.drop_reply(b"COMMIT")
        assert await ask(connection, b"select\n") == b"select\n"
        with pytest.raises(ConnectionResetError):
            await ask(connection, b"COMMIT\n")
        assert b"COMMIT\n" in server.heard
        assert proxy.dropped == 1
        assert await ask(other, b"COMMIT again\n") == b"COMMIT again\n"


async def test_connections_to_a_server_that_is_gone_are_closed() -> None:
    with FaultProxy("127.0.0.1:1") as proxy, pytest.raises(ConnectionResetError):
        await ask_anew(proxy, b"one\n")
