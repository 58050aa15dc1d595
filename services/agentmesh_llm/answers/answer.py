"""One provider call whose answer any number of callers read, each from its first delta on."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from agentmesh.kit import telemetry
from agentmesh.kit.errors import Canceled, DeadlineExceeded, MeshError, Unavailable
from agentmesh_llm.domain import Delta, Finish, size_of

log = telemetry.logger(__name__)

Batches = AsyncGenerator[Sequence[Delta], None]


class Owner(Protocol):
    """Decides what happens to an answer."""

    def grew(self, size: int) -> None:
        """Hear that a kept answer holds `size` bytes more."""

    def idle(self) -> None:
        """Hear that the last reader left before the end."""

    def ended(self) -> None:
        """Hear that the answer is whole, or has failed."""


class SharedAnswer:
    """Runs a provider's stream in a task of its own and keeps what came.

    While `kept`, all of it stays, so that a caller may join at any time. Otherwise only what some reader has not
    read yet stays, and beyond `lag_bytes` of that the provider has to wait. Readers get `batch_bytes` at a time. It
    ends with a Finish or with an error; a stream that stops without a Finish is an error, whatever the provider's
    adapter made of it.
    """

    def __init__(
        self,
        stream: Batches,
        *,
        deadline: float,
        kept: bool,
        lag_bytes: int,
        batch_bytes: int,
    ) -> None:
        self.owner: Owner | None = None
        self.kept = kept
        self.held_bytes = 0
        self.ended = False
        self.error: Exception | None = None
        self.readers: set[Reader] = set()
        self._stream = stream
        self._deadline = deadline
        self._limit: asyncio.Timeout | None = None
        self._lag_bytes = lag_bytes
        self._batch_bytes = batch_bytes
        self._deltas: list[Delta] = []
        self._first = 0  # the number of the first delta that is still held
        self._room: asyncio.Future[None] | None = None
        self._canceled = False
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(self._settle)

    @property
    def joinable(self) -> bool:
        """Return whether a caller that comes now would get the whole answer."""
        expiring = self._limit is not None and self._limit.expired()
        return self.kept and self.error is None and not self._canceled and not expiring

    @property
    def whole(self) -> list[Delta]:
        """Return every delta of an answer that ended well and was kept, else none."""
        return self._deltas if self.ended and self.error is None and self.kept else []

    def read(self, name: object = None) -> "Reader":
        """Add a reader, from the first delta on; `name` tells its caller from others."""
        reader = Reader(self, name)
        self.readers.add(reader)
        return reader

    def extend(self, deadline: float) -> None:
        """Let the call run until `deadline`, in the loop's time, if it would end earlier."""
        if deadline > self._deadline:
            self._deadline = deadline
            if self._limit is not None:
                self._limit.reschedule(deadline)

    def stop_keeping(self) -> None:
        """Hold from now on only what some reader still needs."""
        self.kept = False
        if self.readers:
            self._trim()
        else:
            self.cancel()

    def cancel(self) -> None:
        """End the provider's call, unless the answer is whole already."""
        if not self.ended:
            self._canceled = True
            self.task.cancel()

    def take(self, start: int) -> list[Delta]:
        """Return deltas from number `start` on until they are `batch_bytes` or more, or there are no more."""
        at = start - self._first
        end, size = at, 0
        while end < len(self._deltas) and (end == at or size < self._batch_bytes):
            size += size_of(self._deltas[end])
            end += 1
        return self._deltas[at:end]

    def moved(self) -> None:
        """Note that a reader went on."""
        if not self.kept:
            self._trim()

    def left(self, reader: "Reader") -> None:
        """Forget a reader."""
        self.readers.discard(reader)
        if self.readers:
            self.moved()
        elif not self.ended and self.owner is not None:
            self.owner.idle()

    async def _run(self) -> None:
        error: Exception | None = Canceled("the call was canceled")
        try:
            async with asyncio.timeout_at(self._deadline) as self._limit, aclosing(self._stream):
                async for batch in self._stream:
                    self._publish(batch)
                    while not self.kept and self.held_bytes > self._lag_bytes and not self.ended:
                        self._room = asyncio.get_running_loop().create_future()
                        await self._room
            error = Unavailable("the provider's answer broke off", reason="STREAM_INTERRUPTED", retry_after_s=1)
        except TimeoutError:
            error = DeadlineExceeded("time is up")
        except MeshError as refused:
            error = refused
        except Exception as unexpected:  # noqa: BLE001 - handed to every reader, whose handlers make it a status
            log.error("provider_call_failed", error=type(unexpected).__name__)
            error = unexpected
        finally:
            self._limit = None
            if not self.ended:
                self._end(error)

    def _publish(self, batch: Sequence[Delta]) -> None:
        if not batch or self.ended:
            return
        size = sum(map(size_of, batch))
        self._deltas += batch
        self.held_bytes += size
        if isinstance(batch[-1], Finish):
            self._end(None)
        else:
            for reader in self.readers:
                reader.wake()
        if self.kept and self.owner is not None:
            self.owner.grew(size)

    def _end(self, error: Exception | None) -> None:
        self.ended = True
        self.error = error
        for reader in self.readers:
            reader.wake()
        if self.owner is not None:
            self.owner.ended()

    def _settle(self, _: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step never runs its own `finally`.
        if not self.ended:
            self._end(Canceled("the call was canceled"))

    def _trim(self) -> None:
        count = min(reader.position for reader in self.readers) - self._first
        if count > 0:
            self.held_bytes -= sum(map(size_of, self._deltas[:count]))
            del self._deltas[:count]
            self._first += count
        if self._room is not None and not self._room.done() and self.held_bytes <= self._lag_bytes:
            self._room.set_result(None)


class Reader:
    """One caller's place in an answer; for one task at a time. `aclose` it when the caller is gone."""

    def __init__(self, answer: SharedAnswer, name: object = None) -> None:
        self.position = 0
        self.joined = False
        self.coalesced = False  # joined because it asks the same
        self.name = name
        self._answer = answer
        self._error: MeshError | None = None
        self._woken: asyncio.Future[None] | None = None

    async def next_batch(self) -> list[Delta]:
        """Return the deltas that are ready, waiting for one; none after the last.

        Raises what ended the call, after everything that had come before.
        """
        answer = self._answer
        if self._error is not None:
            raise self._error
        while not (batch := answer.take(self.position)):
            if answer.ended:
                if answer.error is not None:
                    raise answer.error.with_traceback(None)
                return []
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
            if self._error is not None:
                raise self._error
        self.position += len(batch)
        answer.moved()
        return batch

    async def linger(self) -> None:
        """Let what is under way join the next batch: a write returns at once, and the provider's task has its turns."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def wake(self) -> None:
        """Let a waiting `next_batch` look again."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def fail(self, error: MeshError) -> None:
        """End this caller's part with an error; others read on."""
        self._error = error
        self.wake()

    def when_done(self, then: Callable[[], None]) -> None:
        """Have `then` called once the call at the provider is over, whatever became of it."""
        self._answer.task.add_done_callback(lambda _: then())

    async def aclose(self) -> None:
        """Leave. Closing twice is allowed."""
        if self in self._answer.readers:
            self._answer.left(self)
