"""Where log lines go: each place has a bounded queue, so that a stuck one stops neither the service nor the others."""

import atexit
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from prometheus_client import Counter

from agentmesh.kit import names
from agentmesh.kit.background import Background
from agentmesh.kit.log_file import LogFile

dropped = Counter(names.LOG_LINES_DROPPED_TOTAL, "Lines that a log could not take in time or at all", ["sink"])

FLUSH_S = 2.0
"""How long the end of the process waits for lines that are still queued."""
_LINGER_S = 0.005  # what is said in one go is written in one turn of the thread
_AGAIN_S = 0.02


class LineSink:
    """Writes lines in a thread, to what `place` returns for so many bytes; at most `max_bytes` wait.

    It writes past Python's own buffers: a thread that is stuck in one of those would keep the interpreter from ending.
    """

    def __init__(self, name: str, place: Callable[[int], int], max_bytes: int) -> None:
        self._place = place
        self._dropped = dropped.labels(name)
        self._torn = False
        self._queue: Background[str] = Background(
            self._write,
            name=f"log-{name}",
            max_size=max_bytes,
            size_of=sys.getsizeof,
            on_drop=self._dropped.inc,
            linger_s=_LINGER_S,
        )

    def put(self, line: str) -> None:
        """Queue a line, or drop and count it."""
        self._queue.put(line)

    def close(self, timeout_s: float) -> None:
        """Write what is queued, as far as there is time."""
        self._queue.close(timeout_s)

    def _write(self, lines: list[str]) -> None:
        for line in lines:
            # The line before broke off in its middle; what follows must not be glued to it.
            data = (("\n" if self._torn else "") + line).encode(errors="backslashreplace")
            try:
                self._write_whole(data)
            except OSError:
                self._dropped.inc()

    def _write_whole(self, data: bytes) -> None:
        left = memoryview(data)
        descriptor = self._place(len(data))
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:  # somebody else made it non-blocking
                time.sleep(_AGAIN_S)
            except OSError:
                self._torn = self._torn or len(left) < len(data)
                raise
        self._torn = False


class LineSinks:
    """What logging libraries write lines into, as if it were a file: never blocks, never raises."""

    def __init__(self, sinks: Sequence[LineSink]) -> None:
        self._sinks = sinks

    def write(self, text: str) -> int:
        """Queue a line for every sink."""
        for sink in self._sinks:
            sink.put(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: lines are written soon, and at the end of the process."""

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Write what is queued, taking no longer than so for all of them."""
        end = time.monotonic() + timeout_s
        for sink in self._sinks:
            sink.close(max(0.0, end - time.monotonic()))


def open_sinks(console: TextIO | None, file: LogFile | None, max_bytes: int) -> LineSinks:
    """Open the places where lines go; what is queued at the end of the process is written for FLUSH_S at most."""
    sinks = []
    if console is not None:
        descriptor = console.fileno()
        sinks.append(LineSink("stderr", lambda _: descriptor, max_bytes))
    if file is not None:
        sinks.append(LineSink("file", file.descriptor_for, max_bytes))
    together = LineSinks(sinks)
    atexit.register(together.close)
    return together
