"""News between storage processes by NOTIFY, outside of every writing transaction."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from agentmesh_storage.adapters.postgres.pool import GONE, Connection, Pool, connect, gone

_CHANNEL = "agentmesh_news"
_MAX_WAITING = 10_000
_PING_S = 5.0


class PostgresWire:
    """Publishes over the pool and listens on a connection of its own."""

    def __init__(self, pool: Pool, url: str) -> None:
        self._pool = pool
        self._url = url

    async def publish(self, texts: Sequence[str]) -> None:
        """See Wire."""
        await self._pool.fetch("SELECT pg_notify($1, text) FROM unnest($2::text[]) AS text", _CHANNEL, list(texts))

    async def listen(self) -> AsyncGenerator[str, None]:
        """See Wire."""
        try:
            connection = await connect(self._url)
        except GONE as error:
            raise gone() from error
        heard: asyncio.Queue[str] = asyncio.Queue(_MAX_WAITING)

        def hear(_: Connection, __: int, ___: str, payload: object) -> None:
            if heard.full():
                connection.terminate()  # so far behind that looking at everything again is quicker
            else:
                heard.put_nowait(str(payload))

        try:
            await connection.add_listener(_CHANNEL, hear)
            yield ""
            while True:
                try:
                    async with asyncio.timeout(_PING_S):
                        text = await heard.get()
                except TimeoutError:
                    await connection.fetchval("SELECT 1")  # a peer that is frozen or gone says nothing by itself
                else:
                    yield text
        except GONE as error:
            raise gone() from error
        finally:
            connection.terminate()
