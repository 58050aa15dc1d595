"""An answer with one reader ends with it, with its deadline or with a Finish, and always lets its provider go."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from agentmesh.kit.errors import DeadlineExceeded, Unavailable
from agentmesh_llm.answers.sole import SoleReader
from agentmesh_llm.domain import Delta, Finish, FinishReason, TextDelta, Usage

PIECE = TextDelta("x")
END = (Usage(), Finish(FinishReason.STOP))


class Source:
    """Yields batches, then waits for ever unless it `ends`; remembers whether it was closed."""

    def __init__(self, *batches: Sequence[Delta], ends: bool = False) -> None:
        self.batches = batches
        self.ends = ends
        self.closed = 0

    async def stream(self) -> AsyncGenerator[Sequence[Delta], None]:
        try:
            for batch in self.batches:
                yield batch
            if not self.ends:
                await asyncio.Event().wait()
        finally:
            self.closed += 1


def opened(source: Source, *, seconds: float = 10) -> tuple[SoleReader, list[str]]:
    """Return a reader, and where it notes that the call is over."""
    over: list[str] = []
    deadline = asyncio.get_running_loop().time() + seconds
    return SoleReader(source.stream(), deadline, lambda: over.append("over")), over


async def test_a_whole_answer_ends_without_waiting_for_what_follows_it() -> None:
    source = Source([PIECE], (), END)
    reader, over = opened(source)
    assert [await reader.next_batch() for _ in range(4)] == [[PIECE], END, (), ()]
    await reader.aclose()
    assert (source.closed, over) == (1, ["over"])


async def test_an_answer_without_a_finish_broke_off() -> None:
    source = Source([PIECE], ends=True)
    reader, _ = opened(source)
    assert await reader.next_batch() == [PIECE]
    with pytest.raises(Unavailable) as raised:
        await reader.next_batch()
    assert raised.value.reason == "STREAM_INTERRUPTED"
    await reader.aclose()


async def test_who_leaves_ends_the_call() -> None:
    source = Source([PIECE])
    reader, over = opened(source)
    await reader.next_batch()
    await reader.aclose()
    await reader.aclose()
    assert (source.closed, over[0]) == (1, "over")


async def test_a_deadline_ends_the_wait_for_the_next_piece_and_nothing_else_of_the_callers() -> None:
    source = Source([PIECE])
    reader, _ = opened(source, seconds=0.01)
    await reader.next_batch()
    with pytest.raises(DeadlineExceeded):
        await reader.next_batch()
    await asyncio.sleep(0)  # a cancellation that is left over would come here
    assert source.closed == 1
    with pytest.raises(DeadlineExceeded):
        await reader.next_batch()
    await reader.aclose()


async def test_a_deadline_lets_the_provider_go_while_the_caller_is_busy() -> None:
    source = Source([PIECE], [PIECE])
    reader, over = opened(source, seconds=0.01)
    await reader.next_batch()
    async with asyncio.timeout(5):
        while not source.closed:
            await asyncio.sleep(0.005)
    assert over == []  # its account is closed by who opened it
    with pytest.raises(DeadlineExceeded):
        await reader.next_batch()
    await reader.aclose()
    assert over == ["over"]


async def test_a_caller_that_is_canceled_hears_of_nothing_else() -> None:
    source = Source([PIECE])
    reader, _ = opened(source)

    async def read() -> None:
        try:
            while await reader.next_batch():
                pass
        finally:
            await reader.aclose()

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert source.closed == 1
