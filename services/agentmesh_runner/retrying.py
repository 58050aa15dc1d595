"""The one layer that asks a model again: with jitter, only before the first word, and from a budget that all share.

In an outage everybody would ask three times. The budget grows with the calls that are made, so that over time only so
many retries are afforded for each call, whoever makes them.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import telemetry
from agentmesh.kit.errors import Unavailable
from agentmesh_runner.ports import Models

log = telemetry.logger(__name__)

_TRIES = 3
_FIRST_WAIT_S = 0.5
_AT_START = 2.0
_MOST = 10.0


class RetryBudget:
    """Earns `per_call` with each call, spends one on each retry; starts with 2 and never holds more than 10."""

    def __init__(self, per_call: float) -> None:
        self._per_call = per_call
        self._left = min(_AT_START, _MOST)

    def earn(self) -> None:
        """Note a call."""
        self._left = min(self._left + self._per_call, _MOST)

    def spend(self) -> bool:
        """Take one retry out, if there is one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class RetryingModels:
    """Asks again where a call fails before its first word for a reason that may pass."""

    def __init__(
        self,
        models: Models,
        budget: RetryBudget,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._models = models
        self._budget = budget
        self._sleep = sleep
        self._jitter = jitter

    async def generate(
        self, request: pb.GenerateRequest, *, token: str, traceparent: str, timeout_s: float
    ) -> AsyncGenerator[pb.Delta, None]:
        """See Models."""
        self._budget.earn()
        end = asyncio.get_running_loop().time() + timeout_s
        wait_s = _FIRST_WAIT_S
        for tries_left in reversed(range(_TRIES)):
            said = False
            left_s = end - asyncio.get_running_loop().time()
            stream = self._models.generate(request, token=token, traceparent=traceparent, timeout_s=left_s)
            try:
                async with aclosing(stream):
                    async for delta in stream:
                        said = True
                        yield delta
                return
            except Unavailable as error:
                # What was said can't be unsaid within an attempt; a new one supersedes it.
                pause_s = wait_s * (0.5 + self._jitter() / 2)
                if said or not tries_left or left_s <= pause_s or not self._budget.spend():
                    raise
                log.info("model_asked_again", reason=error.reason, tries_left=tries_left)
            await self._sleep(pause_s)
            wait_s *= 2

    async def cancel(self, idempotency_key: str, *, token: str) -> None:
        """See Models."""
        await self._models.cancel(idempotency_key, token=token)
