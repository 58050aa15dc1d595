"""Batches by key, and by turns between callers: nobody's items hold up another's."""

import asyncio

import pytest

from agentmesh.kit.batching import Batcher, BatcherClosed, QueueFull
from agentmesh.kit.keyed_batching import KeyedBatcher
from tests.support.gate import Gate, start, turns


async def test_by_turns_nobodys_many_items_hold_up_anothers_few() -> None:
    gate = Gate()
    # Items 1xx and 2xx are one's, those of 1xx and of 2xx two of its callers'; 3xx are another's.
    batcher = Batcher(gate, max_items=4, turn_of=lambda item: (item // 300, item // 100))
    first = batcher.submit_nowait(100)
    await turns()
    waiting = [batcher.submit_nowait(item) for item in (101, 102, 103, 104, 105, 201, 202, 301, 302)]
    waiting[2].cancel()
    flushed = start(batcher.flush_all())
    for _ in range(3):
        await gate.answer()
    assert gate.batches == [[100], [101, 201, 301, 302], [102, 104, 105, 202]]
    await flushed
    assert await asyncio.gather(first, *waiting[:2], *waiting[3:]) == [
        item * 10 for item in (100, 101, 102, 104, 105, 201, 202, 301, 302)
    ]
    await batcher.aclose()


async def test_a_flush_by_turns_waits_for_the_oldest_item_wherever_it_stands() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=1, turn_of=lambda item: (item // 100, 0))
    batcher.submit_nowait(100)
    await turns()
    batcher.submit_nowait(101)
    batcher.submit_nowait(102)
    flushed = start(batcher.flush_all())
    await turns()
    batcher.submit_nowait(200)
    for expected in ([101], [200]):
        await gate.answer()
        assert gate.batches[-1] == expected
        assert not flushed.done()
    await gate.answer()
    assert gate.batches[-1] == [102]
    assert not flushed.done()
    await gate.answer()
    assert flushed.done()


async def test_keys_batch_apart_and_idle_keys_are_dropped() -> None:
    gate = Gate()
    keyed: KeyedBatcher[str, int, int] = KeyedBatcher(lambda key: Batcher(gate, max_items=4), max_keys=2)
    results = [keyed.submit_nowait(key, item) for key, item in (("a", 1), ("b", 2), ("a", 3))]
    await turns()
    assert gate.batches == [[1, 3], [2]]
    with pytest.raises(QueueFull) as full:
        await keyed.submit("c", 4)
    assert (full.value.limit, keyed.keys) == (2, 2)
    flush = start(keyed.flush_all())
    await gate.answer()
    assert not flush.done()
    assert keyed.keys == 1
    await gate.answer()
    assert flush.done()
    assert keyed.keys == 0
    assert [result.result() for result in results] == [10, 20, 30]
    last = start(keyed.submit("c", 4))
    await turns()
    closing = start(keyed.aclose())
    await turns()
    with pytest.raises(BatcherClosed):
        keyed.submit_nowait("c", 5)
    await gate.answer()
    await closing
    assert await last == 40


async def test_key_whose_first_item_is_refused_takes_no_place() -> None:
    def size_of(item: int) -> int:
        raise ValueError("no size")

    def make(key: str) -> Batcher[int, int]:
        return Batcher(Gate(held=False), max_items=1, max_bytes=1, size_of=size_of)

    keyed = KeyedBatcher(make, max_keys=1)
    for key in ("a", "b"):
        with pytest.raises(ValueError, match="no size"):
            await keyed.submit(key, 1)
    assert keyed.keys == 0
