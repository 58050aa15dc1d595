"""What is kept for joining stays within its bounds, and nothing that a reader still needs is lost."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from agentmesh.kit.errors import Canceled, Unavailable
from agentmesh_llm.answers.answer import Reader, SharedAnswer
from agentmesh_llm.answers.joining import Joiner, JoinKey
from agentmesh_llm.domain import Delta, Finish, FinishReason, TextDelta, Usage
from agentmesh_llm.settings import Bounds

PIECE = TextDelta("x" * 1000)
END = (Usage(), Finish(FinishReason.STOP))


class Source:
    """Yields pieces and remembers how far it was read."""

    def __init__(self, pieces: int, *, whole: bool = True) -> None:
        self.pieces = pieces
        self.whole = whole
        self.yielded = 0
        self.closed = False

    async def stream(self) -> AsyncGenerator[Sequence[Delta], None]:
        try:
            for _ in range(self.pieces):
                self.yielded += 1
                yield [PIECE]
            if self.whole:
                yield END
        finally:
            self.closed = True


def opened(joiner: Joiner, source: Source, key: str = "") -> Reader:
    """Open a call that has ten seconds."""
    name = JoinKey("acme", key, b"digest") if key else None
    deadline = asyncio.get_running_loop().time() + 10
    return joiner.open(name, source.stream, deadline=deadline, on_end=ignore)


def ignore(_: SharedAnswer) -> None:
    """Count nothing."""


async def drained(reader: Reader) -> list[Delta]:
    """Read an answer to its end."""
    deltas: list[Delta] = []
    while batch := await reader.next_batch():
        deltas += batch
    await reader.aclose()
    return deltas


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(1000):
        await asyncio.sleep(0)


async def test_a_stalled_reader_makes_the_provider_wait_at_the_bound() -> None:
    joiner = Joiner(Bounds(reader_bytes=10_000))
    source = Source(1000)
    reader = opened(joiner, source)
    await settle()
    assert 9 <= source.yielded <= 11
    assert len(await drained(reader)) == 1002
    await joiner.aclose()


async def test_whole_answers_beyond_the_total_go_oldest_first() -> None:
    joiner = Joiner(Bounds(join_call_bytes=20_000, join_total_bytes=25_000))
    for key in ("a", "b", "c"):
        await drained(opened(joiner, Source(10), key))
        assert joiner.kept_bytes <= 25_000
    assert [opened(joiner, Source(10), key).joined for key in ("c", "b", "a")] == [True, True, False]
    await joiner.aclose()
    assert joiner.kept_bytes == 0


async def test_a_running_answer_over_its_bound_loses_nothing_for_its_caller() -> None:
    joiner = Joiner(Bounds(join_call_bytes=5_000, reader_bytes=3_000))
    source = Source(100)
    reader = opened(joiner, source, "a")
    await settle()
    assert source.yielded <= 7
    assert joiner.kept_bytes == 0
    assert not opened(joiner, Source(1), "a").joined
    assert len(await drained(reader)) == 102
    await joiner.aclose()


async def test_an_answer_over_its_bound_ends_with_its_last_caller() -> None:
    joiner = Joiner(Bounds(join_call_bytes=5_000, reader_bytes=3_000))
    source = Source(100)
    reader = opened(joiner, source, "a")
    await settle()
    await reader.aclose()
    await settle()
    assert source.closed
    await joiner.aclose()


async def test_a_stream_without_a_finish_is_interrupted_whatever_its_adapter_says() -> None:
    joiner = Joiner(Bounds(response_bytes=1))
    reader = opened(joiner, Source(2, whole=False))
    assert await reader.next_batch() == [PIECE]
    assert await reader.next_batch() == [PIECE]
    with pytest.raises(Unavailable) as raised:
        await reader.next_batch()
    assert raised.value.reason == "STREAM_INTERRUPTED"
    await reader.aclose()
    await joiner.aclose()


async def test_a_call_that_is_canceled_before_its_first_step_ends_too() -> None:
    joiner = Joiner(Bounds())
    reader = opened(joiner, Source(1), "a")
    assert await joiner.cancel("acme", "a")
    with pytest.raises(Canceled):
        await reader.next_batch()
    assert not opened(joiner, Source(1), "a").joined
    await joiner.aclose()


async def test_cancel_ends_every_call_with_the_key_also_one_that_could_not_be_joined() -> None:
    joiner = Joiner(Bounds(join_call_bytes=5_000, reader_bytes=3_000))
    sources = Source(100), Source(100)
    readers = [opened(joiner, source, "a") for source in sources[:1]]
    await settle()
    readers.append(opened(joiner, sources[1], "a"))
    await settle()
    assert await joiner.cancel("acme", "a")
    assert [source.closed for source in sources] == [True, True]
    await joiner.aclose()
