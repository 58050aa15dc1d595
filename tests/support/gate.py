"""A handler of batches that answers when the test says so, and ways to let it come to its turn."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any


class Gate:
    """A handler that records its batches and answers one when the test says so."""

    def __init__(self, *, held: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.open: list[asyncio.Future[Sequence[Any] | None]] = []
        self.held = held
        self.most_at_once = 0

    async def __call__(self, items: list[int]) -> Sequence[int | BaseException]:
        self.batches.append(items)
        answer: Sequence[Any] | None = None
        if self.held:
            door: asyncio.Future[Sequence[Any] | None] = asyncio.get_running_loop().create_future()
            self.open.append(door)
            self.most_at_once = max(self.most_at_once, len(self.open))
            try:
                answer = await door
            finally:
                self.open.remove(door)
        return [item * 10 for item in items] if answer is None else answer

    async def answer(self, results: Sequence[Any] | BaseException | None = None, *, which: int = 0) -> None:
        door = self.open[which]
        if isinstance(results, BaseException):
            door.set_exception(results)
        else:
            door.set_result(results)
        await turns()


async def turns(count: int = 12) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def start(call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(call)
