"""Keeps a request's account open until the last call that it had a part in is over, though its caller may have left."""

from collections.abc import Callable

from agentmesh_llm.watching.calls import Caller, Observer


class Bill:
    """Who pays for a request's texts, and until when it waits, in the loop's time.

    `close` is called once, when no call is under way that `observe` will hear of.
    """

    __slots__ = ("_calls", "_close", "_over", "caller", "deadline", "observe")

    def __init__(self, caller: Caller, observe: Observer, close: Callable[[], None], deadline: float) -> None:
        self.caller = caller
        self.deadline = deadline
        self.observe = observe
        self._close = close
        self._calls = 0
        self._over = False

    def call_began(self) -> None:
        """Hear that a call begins with texts of the request's."""
        self._calls += 1

    def call_ended(self) -> None:
        """Hear that it is over, and observed."""
        self._calls -= 1
        if self._over and not self._calls:
            self._close()

    def end(self) -> None:
        """Hear that the request has its answer, or is given up."""
        self._over = True
        if not self._calls:
            self._close()
