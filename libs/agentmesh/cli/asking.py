"""Reads a person's answers without stopping the event loop."""

import asyncio
import sys
import threading


def is_interactive() -> bool:
    """Say whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class Asker:
    """Asks one question at a time; a further one takes the place of one that nobody has answered yet."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[str | None] | None = None
        self._reading = False

    def ask(self, question: str) -> "asyncio.Future[str | None]":
        """Print a question and return the future line; None at the end of input or when it is replaced."""
        print(question, end=" ", flush=True)
        loop = asyncio.get_running_loop()
        self._give(None)
        self._waiting = loop.create_future()
        if not self._reading:
            self._reading = True
            # A thread that reads can't be stopped; a daemon never keeps the process from ending.
            threading.Thread(target=self._read, args=(loop,), name="ask", daemon=True).start()
        return self._waiting

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        line = sys.stdin.readline()
        try:
            loop.call_soon_threadsafe(self._came, line)
        except RuntimeError:
            return  # the loop has ended: nobody waits for the answer

    def _came(self, line: str) -> None:
        self._reading = False
        self._give(line.rstrip("\r\n") if line else None)

    def _give(self, line: str | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(line)
