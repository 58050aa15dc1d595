"""A cancel that asyncpg answers with a lost connection is still a cancel: whoever waits for the end gets it."""

import asyncio
from typing import Any

import pytest
from asyncpg import exceptions

from agentmesh.kit.errors import Unavailable
from agentmesh.kit.settings import Database
from agentmesh_storage.adapters.postgres.pool import Pool


class Connecting:
    """A pool that never gets a connection, and says so also when it is cancelled meanwhile."""

    async def acquire(self, *, timeout: float) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise exceptions.ConnectionDoesNotExistError("connection was closed") from None


class Closed:
    """A pool whose server is not there."""

    async def acquire(self, *, timeout: float) -> Any:
        raise exceptions.ConnectionDoesNotExistError("connection was closed")


async def in_transaction(pool: Pool) -> None:
    async with pool.transaction():
        raise AssertionError("there is no connection")


@pytest.mark.parametrize("way", ["fetch", "transaction"])
async def test_a_cancel_stays_a_cancel(way: str) -> None:
    pool = Pool(Connecting(), Database())  # type: ignore[arg-type]
    work = asyncio.create_task(pool.fetch("SELECT 1") if way == "fetch" else in_transaction(pool))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_a_deadline_stays_a_deadline() -> None:
    pool = Pool(Connecting(), Database())  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.fetch("SELECT 1"), 0.01)


@pytest.mark.parametrize("way", ["fetch", "transaction"])
async def test_a_server_that_is_not_there_is_unavailable(way: str) -> None:
    pool = Pool(Closed(), Database())  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await (pool.fetch("SELECT 1") if way == "fetch" else in_transaction(pool))
