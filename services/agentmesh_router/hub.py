"""Who watches what: cursors into logs, fed by commits as they happen and by storage where that is not enough.

A subscription sees committed events only, each once and in order. It holds at most 256 KiB; a reader that is
slower than that falls behind and reads from storage again, which slows nobody else.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentmesh.kit import names, telemetry
from agentmesh_router.wire import cut, encode_chunk

MAX_BUFFER_BYTES = 256 * 1024

_subscriptions = telemetry.gauge(names.ROUTER_SUBSCRIPTIONS, "Watchers of tasks on this router")


@dataclass(slots=True)
class StoredChunk:
    """A chunk as storage returns it."""

    attempt: int
    first_sequence: int
    count: int
    events: bytes


@dataclass(slots=True)
class LogPage:
    """Chunks from a cursor on, and where the log ends."""

    chunks: list[StoredChunk]
    last_sequence: int
    terminal: bool


ReadLog = Callable[[str, str, int], Awaitable[LogPage]]


class Subscription:
    """A cursor into one task's log. `wake` is called when there may be something to take."""

    __slots__ = ("_buffer", "_bytes", "_wake", "behind", "cursor", "latest", "next", "task_id", "tenant", "terminal_at")

    def __init__(self, tenant: str, task_id: str, after_sequence: int, wake: "Callable[[Subscription], None]") -> None:
        self.tenant = tenant
        self.task_id = task_id
        self.cursor = after_sequence  # what the reader was given
        self.next = after_sequence + 1  # what the buffer ends before
        self.latest = after_sequence  # what is known to be committed
        self.terminal_at = 0  # sequence of the terminal event, once known
        self.behind = True
        self._buffer: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._wake = wake

    @property
    def done(self) -> bool:
        """Whether the reader was given the terminal event."""
        return 0 < self.terminal_at <= self.cursor

    @property
    def is_dry(self) -> bool:
        """Whether there is nothing to take before storage is looked at."""
        return self.behind and not self._buffer

    def offer(self, attempt: int, first: int, count: int, events: bytes) -> None:
        """Take a chunk that was just committed, if it is the next one and there is room."""
        self.latest = max(self.latest, first + count - 1)
        if not self.behind and first == self.next and self._bytes + len(events) <= MAX_BUFFER_BYTES:
            self._push(attempt, first, count, events)
        elif first + count > self.next:
            self.behind = True
        self._wake(self)

    def grown_to(self, sequence: int) -> None:
        """Hear that the log has grown, without its events."""
        self.latest = max(self.latest, sequence)
        if self.latest >= self.next:
            self.behind = True
            self._wake(self)

    def doubt(self) -> None:
        """Look at storage again."""
        self.behind = True
        self._wake(self)

    def take(self) -> bytes:
        """Return what is buffered, as encoded chunks."""
        if not self._buffer:
            return b""
        data = b"".join(chunk for chunk, _ in self._buffer)
        self.cursor = self._buffer[-1][1]
        self._buffer.clear()
        self._bytes = 0
        return data

    async def catch_up(self, read: ReadLog) -> None:
        """Fill the buffer from storage; afterwards the subscription is live or there is something to take."""
        page = await read(self.tenant, self.task_id, self.next - 1)
        for chunk in page.chunks:
            skip = self.next - chunk.first_sequence
            events = cut(chunk.events, skip) if skip > 0 else chunk.events
            self._push(chunk.attempt, chunk.first_sequence + max(skip, 0), chunk.count - max(skip, 0), events)
        self.latest = max(self.latest, page.last_sequence)
        if page.terminal:
            self.terminal_at = page.last_sequence
        self.behind = self.next <= self.latest

    def start_live(self) -> None:
        """Follow a log from its beginning; for a task that is not committed yet."""
        self.behind = False

    def _push(self, attempt: int, first: int, count: int, events: bytes) -> None:
        data = encode_chunk(self.task_id, attempt, first, events)
        self.next = first + count
        self._buffer.append((data, self.next - 1))
        self._bytes += len(data)


class Hub:
    """All subscriptions of this router, by task."""

    def __init__(self) -> None:
        self._by_task: dict[str, set[Subscription]] = {}

    def add(self, subscription: Subscription) -> None:
        """Let a subscription hear of its task."""
        self._by_task.setdefault(subscription.task_id, set()).add(subscription)
        _subscriptions.inc()

    def remove(self, subscription: Subscription) -> None:
        """Let it hear no more."""
        others = self._by_task.get(subscription.task_id)
        if others is not None and subscription in others:
            others.discard(subscription)
            _subscriptions.dec()
            if not others:
                del self._by_task[subscription.task_id]

    def publish(
        self, task_id: str, attempt: int, first: int, count: int, events: bytes, *, last: int, terminal: bool
    ) -> None:
        """Spread a committed chunk; `last` is the log's end after its transaction."""
        for subscription in self._by_task.get(task_id, ()):
            if terminal:
                subscription.terminal_at = last
            subscription.offer(attempt, first, count, events)
            if last >= first + count:
                subscription.grown_to(last)

    def grown(self, task_id: str, last: int, *, terminal: bool) -> None:
        """Spread that a log has grown by somebody else's commit."""
        for subscription in self._by_task.get(task_id, ()):
            if terminal:
                subscription.terminal_at = last
            subscription.grown_to(last)

    def doubt(self, task_id: str) -> None:
        """Let a task's subscriptions look at storage again: news may have been missed."""
        for subscription in self._by_task.get(task_id, ()):
            subscription.doubt()

    def task_ids(self) -> list[str]:
        """Return the tasks that are watched here."""
        return list(self._by_task)

    def doubt_all(self) -> None:
        """Let every subscription look at storage again."""
        for task_id in list(self._by_task):
            self.doubt(task_id)
