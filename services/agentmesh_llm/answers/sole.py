"""A provider call with one caller for good, who takes its answer as it comes."""

import asyncio
from collections.abc import Callable, Sequence

from agentmesh.kit.errors import DeadlineExceeded, Unavailable
from agentmesh_llm.answers.answer import Batches
from agentmesh_llm.domain import Delta, Finish


class SoleReader:
    """Reads a provider's stream in its caller's own task: no other task, and nothing that is kept.

    It is made and read in that one task, as `Reader` is. Who doesn't read makes the provider wait. At `deadline`, in
    the loop's time, the stream is closed, also while its caller is busy elsewhere. `then` is called once the call is
    over, whatever became of it.
    """

    joined = False
    coalesced = False

    def __init__(self, stream: Batches, deadline: float, then: Callable[[], None]) -> None:
        self._stream = stream
        self._then = then
        self._whole = False
        self._expired = False
        self._caller = asyncio.current_task()
        self._reading = False
        self._closing: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    async def next_batch(self) -> Sequence[Delta]:
        """Return what came together, waiting for it; nothing after the end. Raises what ended the call.

        How much it is depends on the provider's connection: what was read of it at once.
        """
        if self._whole:
            return ()
        if self._expired:
            raise DeadlineExceeded("time is up")
        self._reading = True
        try:
            async for batch in self._stream:
                if batch:
                    self._whole = isinstance(batch[-1], Finish)
                    return batch
        except asyncio.CancelledError:
            if self._expired and self._caller is not None and not self._caller.uncancel():
                raise DeadlineExceeded("time is up") from None
            raise
        finally:
            self._reading = False
        raise Unavailable("the provider's answer broke off", reason="STREAM_INTERRUPTED", retry_after_s=1)

    async def linger(self) -> None:
        """Do nothing: what has come meanwhile is in the next batch anyway."""

    async def aclose(self) -> None:
        """Leave, which ends the provider's call if it is not over. Closing twice is allowed."""
        self._timer.cancel()
        if self._closing is not None:
            await self._closing
        await self._stream.aclose()
        self._then()

    def _expire(self) -> None:
        self._expired = True
        if self._reading and self._caller is not None:
            self._caller.cancel()
        else:
            self._closing = asyncio.create_task(self._stream.aclose())
