"""Does what may block in a thread of its own, from a bounded queue, so that nobody ever waits for it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Hands items to `handle` in their order, up to `max_batch` at once, in a daemon thread.

    At most `max_size` is held, by `size_of` and with what `handle` has in its hands; what comes when it is full is
    dropped. `on_drop` hears how many were, also of those that `handle` raised for. A batch begins `linger_s` after its
    first item, or when it is full. May be used from any thread.
    """

    def __init__(
        self,
        handle: Callable[[list[T]], None],
        *,
        name: str,
        max_size: int,
        on_drop: Callable[[int], None],
        size_of: Callable[[T], int] = lambda _: 1,
        max_batch: int = 512,
        linger_s: float = 0.0,
    ) -> None:
        self._handle = handle
        self._max_size = max_size
        self._on_drop = on_drop
        self._size_of = size_of
        self._max_batch = max_batch
        self._linger_s = linger_s
        self._queue: deque[T] = deque()
        self._size = 0
        self._closed = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Queue an item, or drop it; say whether it was queued. Returns at once."""
        size = self._size_of(item)
        with self._condition:
            if fits := not self._closed and self._size + size <= self._max_size:
                self._queue.append(item)
                self._size += size
                if len(self._queue) in (1, self._max_batch):
                    self._condition.notify()
        if not fits:
            self._on_drop(1)
        return fits

    def close(self, timeout_s: float) -> bool:
        """Take nothing more and finish what is queued, waiting no longer than so; say whether that was enough."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        with self._condition:
            left = len(self._queue)
            self._queue.clear()
        if left:
            self._on_drop(left)
        return False

    def _run(self) -> None:
        while batch := self._next():
            try:
                self._handle(batch)
            except Exception:  # noqa: BLE001 - whatever it is, it is counted, and the next batch may fare better
                self._on_drop(len(batch))
            done = sum(map(self._size_of, batch))
            with self._condition:
                self._size -= done

    def _next(self) -> list[T]:
        """Wait for a batch; none at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._closed)
            due = time.monotonic() + self._linger_s
            while len(self._queue) < self._max_batch and not self._closed and (left := due - time.monotonic()) > 0:
                self._condition.wait(left)
            return [self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch))]
