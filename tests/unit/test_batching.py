import asyncio
import contextvars
import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agentmesh.kit.batching import Batcher, BatcherClosed, BatchFailed, QueueFull
from tests.support.gate import Gate, start, turns


async def test_item_sent_while_idle_goes_out_alone_without_a_timer() -> None:
    gate = Gate(held=False)
    batcher = Batcher(gate, max_items=8)
    assert await batcher.submit(4) == 40
    assert await batcher.submit(5) == 50
    assert gate.batches == [[4], [5]]
    assert (batcher.queued, batcher.in_flight) == (0, 0)
    await batcher.aclose()


async def test_items_of_one_burst_share_a_batch_also_when_they_come_a_tick_apart() -> None:
    gate = Gate(held=False)
    batcher = Batcher(gate, max_items=8, ticks=2)
    first = batcher.submit_nowait(1)
    await asyncio.sleep(0)
    second = batcher.submit_nowait(2)
    assert list(await asyncio.gather(first, second)) == [10, 20]
    assert gate.batches == [[1, 2]]


async def test_while_a_batch_is_in_flight_the_next_is_collected_in_order() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=3)
    results = [batcher.submit_nowait(1)]
    await turns()
    for item in (2, 3, 4, 5):
        results.append(batcher.submit_nowait(item))
        await turns()
    assert gate.batches == [[1]]
    assert (batcher.queued, batcher.in_flight) == (4, 1)
    for _ in range(3):
        await gate.answer()
    assert gate.batches == [[1], [2, 3, 4], [5]]
    assert gate.most_at_once == 1
    assert await asyncio.gather(*results) == [10, 20, 30, 40, 50]


async def test_further_batch_starts_only_when_enough_items_wait() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=9, max_in_flight=2, overlap_at=3)
    results = [batcher.submit_nowait(1)]
    await turns()
    results += [batcher.submit_nowait(item) for item in (2, 3)]
    await turns()
    assert gate.batches == [[1]]
    results.append(batcher.submit_nowait(4))
    await turns()
    assert gate.batches == [[1], [2, 3, 4]]
    results += [batcher.submit_nowait(item) for item in (5, 6, 7, 8)]
    await turns()
    assert batcher.in_flight == gate.most_at_once == 2
    await gate.answer(which=1)
    assert gate.batches[2:] == [[5, 6, 7, 8]]
    await gate.answer()
    await gate.answer()
    assert await asyncio.gather(*results) == [item * 10 for item in range(1, 9)]


async def test_batches_keep_to_their_bytes_and_a_larger_item_goes_alone() -> None:
    gate = Gate(held=False)
    batcher = Batcher(gate, max_items=9, max_bytes=10, size_of=int)
    await asyncio.gather(*[batcher.submit(size) for size in (4, 6, 1, 30, 5, 5, 1)])
    assert gate.batches == [[4, 6], [1], [30], [5, 5], [1]]


async def test_batch_waits_its_time_and_is_then_sent_though_not_full() -> None:
    gate = Gate(held=False)
    batcher = Batcher(gate, max_items=3, max_wait_s=0.03)
    began = asyncio.get_running_loop().time()
    first = batcher.submit_nowait(1)
    await asyncio.sleep(0.01)
    assert gate.batches == []
    assert list(await asyncio.gather(first, batcher.submit(2))) == [10, 20]
    assert gate.batches == [[1, 2]]
    assert asyncio.get_running_loop().time() - began >= 0.03


async def test_full_batch_does_not_wait_its_time() -> None:
    gate = Gate(held=False)
    by_count = Batcher(gate, max_items=2, max_wait_s=3600)
    first = by_count.submit_nowait(1)
    await turns()
    assert list(await asyncio.gather(first, by_count.submit(2))) == [10, 20]
    by_bytes = Batcher(gate, max_items=9, max_wait_s=3600, max_bytes=7, size_of=int)
    first = by_bytes.submit_nowait(3)
    await turns()
    assert list(await asyncio.gather(first, by_bytes.submit(4))) == [30, 40]
    assert gate.batches == [[1, 2], [3, 4]]


async def test_only_a_batch_that_follows_another_waits_for_company() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=3, busy_wait_s=3600)
    alone = batcher.submit_nowait(1)
    await turns()
    assert gate.batches == [[1]]
    following = [batcher.submit_nowait(item) for item in (2, 3)]
    await gate.answer()
    assert alone.done()
    assert gate.batches == [[1]]  # it waits until it is full
    following.append(batcher.submit_nowait(4))
    await turns()
    assert gate.batches == [[1], [2, 3, 4]]
    await gate.answer()
    assert [result.result() for result in following] == [20, 30, 40]


async def test_a_following_batch_that_has_waited_long_enough_does_not_wait_again() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=3, busy_wait_s=0.01)
    batcher.submit_nowait(1)
    await turns()
    batcher.submit_nowait(2)
    await asyncio.sleep(0.02)  # the first one took longer than that
    await gate.answer()
    assert gate.batches == [[1], [2]]
    await gate.answer()


async def test_flush_sends_at_once_and_returns_when_what_was_queued_is_handled() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=2, max_wait_s=3600)
    results = [batcher.submit_nowait(item) for item in (1, 2, 3)]
    flush = start(batcher.flush_all())
    await turns()
    await gate.answer()
    assert gate.batches == [[1, 2], [3]]
    assert not flush.done()
    later = batcher.submit_nowait(4)
    await gate.answer()
    assert flush.done()
    assert [result.result() for result in results] == [10, 20, 30]
    assert not later.done()
    closing = start(batcher.aclose())
    await turns()
    await gate.answer()
    await closing
    assert later.result() == 40


async def test_flush_waits_for_the_batch_of_a_cancelled_item_that_is_still_in_flight() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=2)
    batcher.submit_nowait(1).cancel()
    await asyncio.wait_for(batcher.flush_all(), 1)
    in_flight = batcher.submit_nowait(2)
    await turns()
    in_flight.cancel()
    flush = start(batcher.flush_all())
    await turns()
    assert not flush.done()
    await gate.answer()
    await asyncio.wait_for(flush, 1)
    assert gate.batches == [[2]]


async def test_exception_among_the_results_fails_its_item_only() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=4)
    calls = [start(batcher.submit(item)) for item in (1, 2, 3, 4)]
    await turns()
    await gate.answer([10, KeyError("two"), StopIteration(), asyncio.CancelledError()])
    good, bad, *odd = await asyncio.gather(*calls, return_exceptions=True)
    assert good == 10
    assert isinstance(bad, KeyError)
    assert [type(error) for error in odd] == [BatchFailed, BatchFailed]


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (OSError("disk"), OSError, "disk"),
        ([10], BatchFailed, "writer gave 1 results for 2 items"),
        ([10, 20, 30], BatchFailed, "writer gave 3 results for 2 items"),
        (asyncio.CancelledError(), BatchFailed, "writer was cancelled in its handler"),
    ],
)
async def test_failed_handler_fails_all_of_its_batch_and_no_other(
    answer: Any, kind: type[Exception], text: str
) -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=2, name="writer")
    calls = [start(batcher.submit(item)) for item in (1, 2, 3)]
    await turns()
    with capture_logs() as logs:
        await gate.answer(answer)
        await gate.answer()
    first, second, third = await asyncio.gather(*calls, return_exceptions=True)
    assert type(first) is type(second) is kind
    assert str(first) == str(second) == text
    assert third == 30
    assert [(line["event"], line["batcher"], line["items"]) for line in logs] == [("batch_failed", "writer", 2)]


async def test_dropped_futures_of_a_failed_batch_are_told_once_in_the_log_and_not_by_the_loop() -> None:
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
    gate = Gate()
    batcher = Batcher(gate, max_items=2)
    for item in (1, 2, 3, 4):
        batcher.submit_nowait(item)
    await turns()
    with capture_logs() as logs:
        await gate.answer(OSError("disk"))
        await gate.answer([KeyError(), KeyError()])
        await batcher.aclose()
    gc.collect()
    assert [line["error"] for line in logs] == ["OSError"]
    assert reports == []


async def test_cancelled_item_that_was_not_sent_never_reaches_the_handler() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=4)
    batcher.submit_nowait(1)
    await turns()
    call, future, kept = start(batcher.submit(2)), batcher.submit_nowait(3), batcher.submit_nowait(4)
    await turns()
    assert batcher.queued == 3
    call.cancel()
    future.cancel()
    await turns()
    assert batcher.queued == 1
    await gate.answer()
    await gate.answer()
    assert gate.batches == [[1], [4]]
    assert kept.result() == 40
    assert call.cancelled()


async def test_result_of_an_item_cancelled_in_flight_is_ignored() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=4)
    call, kept = start(batcher.submit(1)), start(batcher.submit(2))
    await turns()
    call.cancel()
    await turns()
    assert call.cancelled()
    await gate.answer()
    assert gate.batches == [[1, 2]]
    assert await kept == 20


async def test_full_queue_refuses_nowait_and_lets_submit_wait_for_room_in_order() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=1, max_queued=2)
    batcher.submit_nowait(1)
    await turns()
    queued = [batcher.submit_nowait(2), batcher.submit_nowait(3)]
    with pytest.raises(QueueFull) as full:
        batcher.submit_nowait(99)
    assert full.value.limit == 2
    blocked = [start(batcher.submit(4)), start(batcher.submit(5))]
    await turns()
    assert batcher.queued == 2
    await gate.answer()
    with pytest.raises(QueueFull):
        batcher.submit_nowait(99)
    for _ in range(4):
        await gate.answer()
    assert gate.batches == [[1], [2], [3], [4], [5]]
    assert await asyncio.gather(*queued, *blocked) == [20, 30, 40, 50]


async def test_cancelling_a_queued_item_makes_room() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=1, max_queued=1)
    batcher.submit_nowait(1)
    await turns()
    for _ in range(1000):
        batcher.submit_nowait(2).cancel()
    last = batcher.submit_nowait(3)
    with pytest.raises(QueueFull):
        batcher.submit_nowait(4)
    await gate.answer()
    await gate.answer()
    assert gate.batches == [[1], [3]]
    assert last.result() == 30


async def test_close_serves_what_came_before_refuses_what_comes_after_and_leaves_no_task() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=2, max_queued=2, max_wait_s=3600)
    before = asyncio.all_tasks()
    calls = [start(batcher.submit(item)) for item in (1, 2, 3, 4, 5)]
    await turns()
    closing = [start(batcher.aclose()), start(batcher.aclose())]
    await turns()
    with pytest.raises(BatcherClosed):
        batcher.submit_nowait(6)
    with pytest.raises(BatcherClosed):
        await batcher.submit(6)
    for _ in range(3):
        await gate.answer()
    await asyncio.gather(*closing)
    await batcher.aclose()
    assert await asyncio.gather(*calls) == [10, 20, 30, 40, 50]
    assert asyncio.all_tasks() == before


async def test_close_ends_though_the_handler_fails() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=1)
    calls = [start(batcher.submit(item)) for item in (1, 2)]
    await turns()
    closing = start(batcher.aclose())
    await gate.answer(OSError("one"))
    await gate.answer(OSError("two"))
    await asyncio.wait_for(closing, 1)
    assert [str(error) for error in await asyncio.gather(*calls, return_exceptions=True)] == ["one", "two"]


async def test_close_ends_when_the_only_item_that_waits_for_its_time_is_cancelled() -> None:
    batcher = Batcher(Gate(), max_items=2, max_wait_s=3600)
    before = asyncio.all_tasks()
    future = batcher.submit_nowait(1)
    await turns()
    future.cancel()
    await batcher.aclose()
    assert asyncio.all_tasks() == before


async def test_idle_batcher_keeps_no_task() -> None:
    batcher = Batcher(Gate(held=False), max_items=2)
    before = asyncio.all_tasks()
    await batcher.submit(1)
    await turns()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("wait", [0, 12])
async def test_stopped_worker_fails_every_item_and_the_next_item_starts_anew(wait: int) -> None:
    gate = Gate()
    batcher = Batcher(gate, max_items=1)
    before = asyncio.all_tasks()
    futures = [batcher.submit_nowait(item) for item in (1, 2)]
    await turns(wait)
    (worker,) = asyncio.all_tasks() - before
    worker.cancel()
    await turns()
    with capture_logs():
        outcomes = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 1)
    assert [type(outcome) for outcome in outcomes] == [BatchFailed, BatchFailed]
    gate.held = False
    assert await batcher.submit(3) == 30


async def test_handler_does_not_see_the_context_of_the_first_submitter() -> None:
    tenant = contextvars.ContextVar("tenant", default="nobody")

    async def handle(items: list[int]) -> list[str]:
        return [tenant.get() for _ in items]

    batcher = Batcher(handle, max_items=2)
    tenant.set("acme")
    assert await batcher.submit(1) == "nobody"


async def test_impossible_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Batcher(Gate(), max_items=0)
    with pytest.raises(ValueError, match="go together"):
        Batcher(Gate(), max_items=1, max_bytes=1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["submit", "nowait", "cancel"]), st.integers(0, 30)),
        st.tuples(st.sampled_from(["answer", "fail", "item_errors", "miscount"]), st.integers(0, 3)),
        st.tuples(st.just("turn"), st.integers(1, 6)),
        st.tuples(st.just("flush"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(
    steps=STEPS,
    max_items=st.integers(1, 5),
    max_bytes=st.integers(1, 60),
    max_queued=st.integers(1, 8),
    max_in_flight=st.integers(1, 3),
    overlap_at=st.integers(1, 4),
    ticks=st.integers(0, 3),
    max_wait_s=st.sampled_from([None, 0.0, 3600.0]),
    busy_wait_s=st.sampled_from([None, 0.0, 3600.0]),
)
def test_every_uncancelled_item_gets_its_own_result_and_batches_keep_bounds_and_order(
    steps: list[tuple[str, int]],
    max_items: int,
    max_bytes: int,
    max_queued: int,
    max_in_flight: int,
    overlap_at: int,
    ticks: int,
    max_wait_s: float | None,
    busy_wait_s: float | None,
) -> None:
    sizes: list[int] = []  # by item; an item is its number in the order of submission
    outcome: dict[int, Any] = {}  # what the handler answered, by item

    async def play() -> None:
        gate = Gate()
        batcher: Batcher[int, int] = Batcher(
            gate,
            max_items=max_items,
            max_bytes=max_bytes,
            size_of=sizes.__getitem__,
            max_queued=max_queued,
            max_in_flight=max_in_flight,
            overlap_at=overlap_at,
            ticks=ticks,
            max_wait_s=max_wait_s,
            busy_wait_s=busy_wait_s,
        )
        calls: dict[int, asyncio.Future[int]] = {}
        flushes: list[tuple[list[asyncio.Future[int]], asyncio.Task[Any]]] = []
        unanswered: list[tuple[asyncio.Future[Any], list[int]]] = []

        def pending() -> list[tuple[asyncio.Future[Any], list[int]]]:
            known = [door for door, _ in unanswered]
            fresh = [door for door in gate.open if door not in known]
            if fresh:
                unanswered.extend(zip(fresh, gate.batches[-len(fresh) :], strict=True))
            unanswered[:] = [pair for pair in unanswered if not pair[0].done()]
            return unanswered

        def answer(action: str, which: int) -> None:
            if not pending():
                return
            door, items = unanswered[which % len(unanswered)]
            if action == "fail":
                outcome.update(dict.fromkeys(items, OSError))
                door.set_exception(OSError("all"))
            elif action == "miscount":
                outcome.update(dict.fromkeys(items, BatchFailed))
                door.set_result([0] * (len(items) + 1))
            else:
                errors = action == "item_errors"
                outcome.update({item: KeyError if errors and item % 2 else item * 10 for item in items})
                door.set_result([KeyError() if outcome[item] is KeyError else item * 10 for item in items])

        for action, value in steps:
            if action == "submit":
                sizes.append(value)
                calls[len(sizes) - 1] = start(batcher.submit(len(sizes) - 1))
                await asyncio.sleep(0)
            elif action == "nowait":
                sizes.append(value)
                try:
                    calls[len(sizes) - 1] = batcher.submit_nowait(len(sizes) - 1)
                except QueueFull:
                    assert batcher.queued == max_queued
            elif action == "cancel" and value in calls:
                calls[value].cancel()
            elif action == "flush":
                flushes.append((list(calls.values()), start(batcher.flush_all())))
                await asyncio.sleep(0)
            elif action == "turn":
                await turns(value)
            else:
                answer(action, value)
            pending()
            assert batcher.queued <= max_queued
            assert batcher.in_flight <= max_in_flight
            await asyncio.sleep(0)
            assert all(call.done() for before, flush in flushes if flush.done() for call in before)
        closing = start(batcher.aclose())
        for _ in range(2 * len(sizes) + 2):
            await turns()
            answer("answer", 0)
        await asyncio.wait_for(closing, 5)
        await asyncio.gather(*[flush for _, flush in flushes])

        sent = [item for batch in gate.batches for item in batch]
        assert sent == sorted(set(sent))
        for batch in gate.batches:
            assert 1 <= len(batch) <= min(max_items, max_queued)
            assert len(batch) == 1 or sum(sizes[item] for item in batch) <= max_bytes
        assert gate.most_at_once <= max_in_flight
        for item, call in calls.items():
            assert call.done()
            if call.cancelled():
                continue
            error = call.exception()
            assert (type(error) if error is not None else call.result()) == outcome[item]
        assert set(sent) >= {item for item, call in calls.items() if not call.cancelled()}
        assert len(asyncio.all_tasks()) == 1

    with capture_logs():
        asyncio.run(play())
