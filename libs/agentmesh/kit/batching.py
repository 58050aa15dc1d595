"""The one way the project turns many small calls into few large ones: batch by being busy."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from agentmesh.kit.bare_structlog import structlog
from agentmesh.kit.turns import Turn, TurnLine

T = TypeVar("T")
R = TypeVar("R")

Handle = Callable[[list[T]], Awaitable[Sequence[R | BaseException]]]

_SWEEP_AT = 64  # cancelled places that may stay in the line before it is rebuilt

log = structlog.get_logger(__name__)


class QueueFull(Exception):
    """As many items wait (or keys are busy) as `limit` allows; there is room again as batches finish."""

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class BatcherClosed(RuntimeError):
    """The batcher takes no new items."""


class BatchFailed(RuntimeError):
    """A batch gave no usable results: a wrong number of them, or its handler was cancelled."""


class _Entry(asyncio.Future[R], Generic[T, R]):
    """An item and its result as one object, for one allocation an item instead of three."""

    __slots__ = ("_queued_in", "item", "queued_at_s", "sequence", "size")

    _queued_in: "Batcher[T, R] | None"  # None once sent or cancelled
    item: T
    queued_at_s: float
    sequence: int
    size: int

    def cancel(self, msg: object = None) -> bool:
        # Told here and not by a done callback: that would cost every item a turn of the loop.
        cancelled = super().cancel(msg)
        if cancelled and self._queued_in is not None:
            self._queued_in._forget(self)
        return cancelled

    def fail(self, error: BaseException) -> None:
        if self.done():
            return
        if isinstance(error, (StopIteration, asyncio.CancelledError)):
            # A future can't carry the first, and the second would look like the waiter's own cancellation.
            wrapped = BatchFailed(f"the item failed with {type(error).__name__}")
            wrapped.__cause__ = error
            error = wrapped
        self.set_exception(error)
        self.exception()  # marks it as seen: whoever dropped the future gets no report from the loop


class Batcher(Generic[T, R]):
    """Hand items to `handle` in batches: at once when idle, and while a batch is in flight collect the next.

    `handle` gets 1 to `max_items` items in the order of submission, of at most `max_bytes` by `size_of` (a
    larger item goes alone), and returns one entry an item; an entry that is an exception fails only its item.
    If it raises, all items of its batch fail with that and one `batch_failed` line is logged. It runs in the
    context variables of the batcher's construction and must not wait for an item of the same batcher.

    A batch is sent `ticks` turns of the event loop after its first item, so that a burst shares it; with
    `max_wait_s` (seconds) it waits until it is full, its first item is that old, or a flush. `busy_wait_s` is the
    same for a batch that was collected while another one was in flight: where batches take longer than that, it
    never waits; where they take no time, a burst still shares few of them.

    With `turn_of` the items of a batch are taken by turns: of one that many wait for, each has its share.

    Up to `max_in_flight` batches run at a time, a further one only when at least `overlap_at` items wait. No batch
    is larger than `max_queued` either. Belongs to one event loop; not thread-safe.
    """

    def __init__(
        self,
        handle: Handle[T, R],
        *,
        max_items: int,
        max_bytes: int | None = None,
        size_of: Callable[[T], int] | None = None,
        max_wait_s: float | None = None,
        busy_wait_s: float | None = None,
        max_queued: int = 10_000,
        max_in_flight: int = 1,
        overlap_at: int = 1,
        ticks: int = 2,
        turn_of: Callable[[T], Turn] | None = None,
        name: str = "batch",
    ) -> None:
        if min(max_items, max_queued, max_in_flight, overlap_at) < 1 or ticks < 0:
            raise ValueError("max_items, max_queued, max_in_flight and overlap_at are at least 1, ticks at least 0")
        if (max_bytes is None) != (size_of is None):
            raise ValueError("max_bytes and size_of go together")
        self._handle = handle
        self._max_items = min(max_items, max_queued)
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._max_wait_s = max_wait_s
        self._busy_wait_s = max_wait_s if busy_wait_s is None else busy_wait_s
        self._max_queued = max_queued
        self._max_in_flight = max_in_flight
        self._overlap_at = overlap_at
        self._ticks = ticks
        self._name = name
        self._context = contextvars.copy_context()
        # Callers of submit() past max_queued stand at the end of the same line, which keeps the order without
        # a second queue; they aren't counted as queued and hold no more memory than a wait elsewhere would.
        self._line: deque[_Entry[T, R]] | TurnLine[_Entry[T, R]] = deque()
        self._by_turns = turn_of is not None
        if turn_of is not None:
            self._line = TurnLine(lambda entry: turn_of(entry.item))
        self._live = 0  # entries in the line that aren't cancelled
        self._bytes = 0
        self._sequence = 0
        self._collecting = False  # at most one worker collects; the others are in flight
        self._first_in_flight: set[int] = set()  # each batch by the sequence of its first item
        self._workers: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.Future[None] | None = None
        self._flush_to = 0
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        self._closed = False
        self._on_idle: Callable[[], None] | None = None

    @property
    def queued(self) -> int:
        """Number of items that wait to be sent, at most `max_queued`."""
        return min(self._live, self._max_queued)

    @property
    def in_flight(self) -> int:
        """Number of batches that `handle` works on."""
        return len(self._first_in_flight)

    async def submit(self, item: T) -> R:
        """Return the item's result; wait for room first while the queue is full.

        Cancelling the call takes back an item that hasn't been sent, and ignores the result of one that has.
        Raises BatcherClosed, the item's error, or what its batch failed with.
        """
        return await self._enqueue(item)

    def submit_nowait(self, item: T) -> asyncio.Future[R]:
        """Queue the item and return its future result; cancelling it acts as in `submit`.

        A future that is dropped drops its item's error too. Raises QueueFull (also while callers of `submit`
        wait for room) and BatcherClosed.
        """
        if self._live >= self._max_queued and not self._closed:
            raise QueueFull(f"the queue of {self._name} is full", limit=self._max_queued)
        return self._enqueue(item)

    async def flush_all(self) -> None:
        """Return when every item submitted before the call is handled, in vain or not, or taken back.

        Takes as long as `handle` does; a deadline is the caller's.
        """
        if not self._live and not self._first_in_flight:
            return
        done = asyncio.get_running_loop().create_future()
        self._flush_to = self._sequence
        self._flushes.append((self._sequence, done))
        self._wake()
        try:
            await done
        finally:
            self._flushes = [flush for flush in self._flushes if flush[1] is not done]

    async def aclose(self) -> None:
        """Refuse new items, handle those submitted before, and stop; no task is left. May be called again."""
        self._closed = True
        await self.flush_all()
        while self._workers:
            await asyncio.wait(self._workers)

    def _enqueue(self, item: T) -> _Entry[T, R]:
        if self._closed:
            raise BatcherClosed(f"{self._name} is closed")
        loop = asyncio.get_running_loop()
        size = 0 if self._size_of is None else self._size_of(item)
        entry: _Entry[T, R] = _Entry(loop=loop)
        entry.item = item
        entry.size = size
        entry._queued_in = self
        self._sequence = entry.sequence = self._sequence + 1
        if self._busy_wait_s is not None:
            entry.queued_at_s = loop.time()
        self._line.append(entry)
        self._live += 1
        self._bytes += size
        if self._collecting:
            if self._alarm is not None and self._is_full():
                self._wake()
        elif self._wants_batch():
            self._start_worker()
        return entry

    def _forget(self, entry: _Entry[T, R]) -> None:
        entry._queued_in = None
        self._live -= 1
        self._bytes -= entry.size
        if len(self._line) > _SWEEP_AT + 2 * self._live:
            waiting = [waits for waits in self._line if waits._queued_in is not None]
            self._line.clear()
            self._line.extend(waiting)
        if not self._live:
            self._wake()
        self._settle_flushes()

    def _head(self) -> _Entry[T, R] | None:
        line = self._line
        while line and line[0]._queued_in is None:
            line.popleft()
        return line[0] if line else None

    def _is_full(self) -> bool:
        return self._live >= self._max_items or (self._max_bytes is not None and self._bytes >= self._max_bytes)

    def _wants_batch(self) -> bool:
        if self._collecting or not self._live:
            return False
        busy = len(self._first_in_flight)
        return not busy or (busy < self._max_in_flight and self._live >= self._overlap_at)

    def _wake(self) -> None:
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    def _start_worker(self) -> None:
        self._collecting = True
        task = asyncio.get_running_loop().create_task(self._work(), name=self._name, context=self._context.copy())
        self._workers.add(task)
        task.add_done_callback(self._worker_done)

    def _worker_done(self, task: asyncio.Task[None]) -> None:
        self._workers.discard(task)
        if task.cancelled() or task.exception() is not None:
            # Nobody but the end of the loop stops a worker; without this, those who wait would wait for ever.
            self._collecting = False
            abandoned = [entry for entry in self._line if entry._queued_in is not None]
            self._line.clear()
            self._live = self._bytes = 0
            self._fail(abandoned, BatchFailed(f"{self._name} was stopped"))
            self._settle_flushes()
        if self._on_idle is not None and not self._workers and not self._live:
            self._on_idle()

    async def _work(self) -> None:
        wait_s = self._max_wait_s
        while True:
            await self._fill(wait_s)
            wait_s = self._busy_wait_s
            self._collecting = False
            if self._wants_batch():  # not if what was collected has been cancelled
                batch = self._take()
                self._first_in_flight.add(batch[0].sequence)
                if self._wants_batch():
                    self._start_worker()
                await self._send(batch)
            if not self._wants_batch():
                return
            self._collecting = True

    async def _fill(self, wait_s: float | None) -> None:
        for _ in range(self._ticks):
            if self._is_full():
                return
            await asyncio.sleep(0)
        if wait_s is None:
            return
        loop = asyncio.get_running_loop()
        while (head := self._head()) is not None and not self._is_full() and head.sequence > self._flush_to:
            due_s = head.queued_at_s + wait_s
            if loop.time() >= due_s:
                return
            self._alarm = loop.create_future()
            timer = loop.call_at(due_s, self._wake)
            try:
                await self._alarm
            finally:
                timer.cancel()
                self._alarm = None

    def _take(self) -> list[_Entry[T, R]]:
        batch: list[_Entry[T, R]] = []
        line, max_items, max_bytes, size = self._line, self._max_items, self._max_bytes, 0
        while line and len(batch) < max_items:
            entry = line[0]
            if entry._queued_in is not None:
                if max_bytes is not None and batch and size + entry.size > max_bytes:
                    break
                size += entry.size
                entry._queued_in = None
                batch.append(entry)
            line.popleft()
        self._live -= len(batch)
        self._bytes -= size
        if self._by_turns:
            batch.sort(key=lambda entry: entry.sequence)
        return batch

    async def _send(self, batch: list[_Entry[T, R]]) -> None:
        try:
            results = await self._handle([entry.item for entry in batch])
            if len(results) != len(batch):
                raise BatchFailed(f"{self._name} gave {len(results)} results for {len(batch)} items")
            for entry, result in zip(batch, results, strict=True):
                if isinstance(result, BaseException):
                    entry.fail(result)
                elif not entry.done():
                    entry.set_result(result)
        except asyncio.CancelledError as error:
            stopped = BatchFailed(f"{self._name} was cancelled in its handler")
            stopped.__cause__ = error
            self._fail(batch, stopped)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            # Otherwise something inside `handle` was cancelled: that ends its batch, not the batcher.
        except Exception as error:  # noqa: BLE001 -- whatever it is, it belongs to those who wait for the batch
            self._fail(batch, error)
        except BaseException:
            self._fail(batch, BatchFailed(f"{self._name} was interrupted"))
            raise
        finally:
            self._first_in_flight.discard(batch[0].sequence)
            self._settle_flushes()

    def _fail(self, batch: list[_Entry[T, R]], error: BaseException) -> None:
        if batch:
            log.warning("batch_failed", batcher=self._name, items=len(batch), error=type(error).__name__)
        for entry in batch:
            entry._queued_in = None
            entry.fail(error)

    def _settle_flushes(self) -> None:
        if not self._flushes:
            return
        oldest = min(self._first_in_flight, default=self._sequence + 1)
        if self._by_turns:
            oldest = min([oldest, *(waits.sequence for waits in self._line if waits._queued_in is not None)])
        elif (head := self._head()) is not None:
            oldest = min(oldest, head.sequence)
        for target, done in self._flushes:
            if target < oldest and not done.done():
                done.set_result(None)
