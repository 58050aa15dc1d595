"""Lets one llm-proxy of several ask what all of them are asked; the others wait for its answer, within bounds."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from agentmesh.kit import names, telemetry
from agentmesh_llm.answers.answer import Batches
from agentmesh_llm.answers.cache_keys import CacheKey
from agentmesh_llm.answers.replay import deltas_of

_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.2
_SLOWER: Final = 1.5

_questions = telemetry.counter(
    names.LLM_LEASED_TOTAL, "Questions that several llm-proxies may have been asked", ("outcome",)
)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to ask a question; `token` tells it from later ones of the same name.

    One that is not `shared` was given because nobody could say who else has it.
    """

    name: str
    token: str
    shared: bool = True


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of trying to take a lease: it, or the answer that is there already; neither if somebody else has it."""

    lease: Lease | None
    entry: bytes | None


class Leases(Protocol):
    """Gives each question to one llm-proxy at a time. Never raises, and never waits for more than a moment.

    When it can't know, it gives a lease: to ask twice is better than not to ask.
    """

    async def take(self, key: CacheKey) -> Taken:
        """Try to take the lease for a question."""

    async def look(self, key: CacheKey) -> tuple[bool, bytes | None]:
        """Return whether somebody holds the lease, and the answer if it is there."""

    def release(self, lease: Lease) -> None:
        """Give a lease back, once what was put into the cache is there for everybody; returns at once."""

    async def aclose(self) -> None:
        """Give every lease back."""


class Sharing:
    """Asks what nobody else is asking; waits at most `wait_s` for somebody else's answer."""

    def __init__(self, leases: Leases, wait_s: float) -> None:
        self._leases = leases
        self._wait_s = wait_s

    async def stream(self, key: CacheKey, ask: Callable[[], Batches], found: Callable[[], None]) -> Batches:
        """Yield the answer of a call of one's own, or another llm-proxy's whole one after `found` was called."""
        taken = await self._take(key)
        if taken.entry is not None:
            _questions.labels("found").inc()
            found()
            yield deltas_of(taken.entry)
            return
        _questions.labels(_outcome(taken.lease)).inc()
        try:
            async with aclosing(ask()) as batches:
                async for batch in batches:
                    yield batch
        finally:
            if taken.lease is not None:
                self._leases.release(taken.lease)

    async def aclose(self) -> None:
        """Give every lease back."""
        await self._leases.aclose()

    async def _take(self, key: CacheKey) -> Taken:
        """Return a lease or an answer; neither if the wait for both was too long."""
        now = asyncio.get_running_loop().time
        until = now() + self._wait_s
        pause_s = _FIRST_PAUSE_S
        while True:
            taken = await self._leases.take(key)
            if taken.lease is not None or taken.entry is not None:
                return taken
            held = True
            while held:
                if now() >= until:
                    return Taken(None, None)
                await asyncio.sleep(min(pause_s, max(0.0, until - now())))
                pause_s = min(pause_s * _SLOWER, _LONGEST_PAUSE_S)
                held, entry = await self._leases.look(key)
                if entry is not None:
                    return Taken(None, entry)


def _outcome(lease: Lease | None) -> str:
    if lease is None:
        return "waited_in_vain"
    return "asked" if lease.shared else "asked_unshared"
