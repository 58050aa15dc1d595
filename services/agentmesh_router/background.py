"""Work that nobody waits for, held so that it is not lost, and heard of if it fails."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from agentmesh.kit import telemetry
from agentmesh.kit.errors import MeshError

log = telemetry.logger(__name__)


class Background:
    """Runs coroutines; what fails with a MeshError is logged under `what`, a bug is the loop's to report."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a coroutine run."""
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except MeshError as error:
            log.warning("background_work_failed", what=self._what, reason=error.reason)


def fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    """Let a future fail unless it is done; whoever dropped it gets no report from the loop."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as seen
