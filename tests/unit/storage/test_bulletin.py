"""Storage processes that meet know each other at once, whoever of them was first."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from agentmesh.kit.clock import SystemClock
from agentmesh_storage import domain as d
from agentmesh_storage.news import Bulletin
from agentmesh_storage.ports import News


class Room:
    """A wire in memory: whoever listens hears what is published from then on."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._listeners: list[asyncio.Queue[str]] = []

    async def publish(self, texts: Sequence[str]) -> None:
        self.said += texts
        for listener in self._listeners:
            for text in texts:
                listener.put_nowait(text)

    async def listen(self) -> AsyncGenerator[str, None]:
        heard: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.append(heard)
        yield ""
        while True:
            yield await heard.get()


async def turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_one_that_comes_later_is_greeted_back_and_tells_its_first_news() -> None:
    room, heard = Room(), list[News | None]()
    early, late = Bulletin(room, SystemClock(), heard.append), Bulletin(room, SystemClock(), lambda _: None)
    running = [asyncio.create_task(early.run())]
    await turns()
    running.append(asyncio.create_task(late.run()))
    await turns()
    assert early.has_peers
    assert late.has_peers  # without waiting for the next time that the early one says hello
    greetings = len(room.said)
    await turns()
    assert len(room.said) == greetings  # and they leave it at that
    late.tell(News(heads=[d.Head("acme", "t1", 7, d.State.WORKING, 1, True, "", "")]))
    async with asyncio.timeout(10):
        while not any(news and news.heads for news in heard):
            await asyncio.sleep(0.001)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
