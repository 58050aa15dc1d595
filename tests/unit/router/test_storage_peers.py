"""A router that leaves a storage process for another one goes on hearing the news."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.storage.v1 import task_store_service_pb2_grpc as pb_grpc
from agentmesh.kit.errors import Unavailable
from agentmesh_router.adapters.peers import StoragePeers, unreachable
from agentmesh_router.adapters.storage import GrpcStorage


class Board(pb_grpc.TaskStoreServiceServicer):
    """Tells whoever watches one thing, and then nothing any more."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: object
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """See the contract."""
        yield pb.WatchEventsResponse(heads=[pb.TaskHead(task_id=self.name)])
        await asyncio.Event().wait()


@asynccontextmanager
async def two_storages() -> AsyncIterator[tuple[StoragePeers, GrpcStorage]]:
    async with AsyncExitStack() as stack:
        addresses = []
        for name in ("one", "two"):
            server = grpc.aio.server()
            pb_grpc.add_TaskStoreServiceServicer_to_server(Board(name), server)
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            await server.start()
            stack.push_async_callback(server.stop, None)
        peers = StoragePeers(addresses, "router~1", trust=None)
        stack.push_async_callback(peers.aclose)
        storage = GrpcStorage(peers, "token", "router~1", lambda agents: None)
        stack.push_async_callback(storage.aclose)
        yield peers, storage


async def first_head(news: AsyncIterator[list[pb.TaskHead] | None]) -> str:
    async for heads in news:
        if heads:
            return str(heads[0].task_id)
    raise AssertionError("the news ended")


async def test_news_that_are_broken_off_by_a_move_end_with_an_error_and_come_from_the_next_peer() -> None:
    async with two_storages() as (peers, storage), asyncio.timeout(10):
        news = storage.heads()
        before = await first_head(news)
        waiting = asyncio.ensure_future(anext(news))
        await asyncio.sleep(0)
        peers.failed(peers.tasks, unreachable())
        with pytest.raises(Unavailable):  # CancelledError would end the task that listens
            await waiting
        again = storage.heads()
        assert {before, await first_head(again)} == {"one", "two"}
        await again.aclose()


async def test_whoever_stops_listening_is_canceled_as_always() -> None:
    async with two_storages() as (_, storage), asyncio.timeout(10):
        news = storage.heads()
        await first_head(news)
        waiting = asyncio.ensure_future(anext(news))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_commit_to_a_peer_that_never_speaks_ends_with_the_move_to_the_next() -> None:
    connected = asyncio.Event()
    serving: set[asyncio.Task[None]] = set()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        connected.set()
        try:
            await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    address = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    peers = StoragePeers([address, address], "router~1", trust=None)
    storage = GrpcStorage(peers, "token", "router~1", lambda agents: None)
    try:
        committing = storage.commit_soon(pb.Mutation())
        await connected.wait()  # the call is under way, and does not begin
        peers.failed(peers.tasks, unreachable())
        with pytest.raises(Unavailable):
            await asyncio.wait_for(committing, 2)
    finally:
        await storage.aclose()
        await peers.aclose()
        silent.close()
        await asyncio.gather(
            *serving, return_exceptions=True
        )  # a socket that is left open fails whichever test comes later
