"""Tells the other storage processes what was committed here, and routers what was committed there.

Wake-ups only: what gets lost costs latency, because routers poll. News are collected for some milliseconds, so that
many commits share a message, and nothing is sent while no other process is there to hear it.
"""

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.kit import telemetry
from agentmesh.kit.clock import Clock
from agentmesh.kit.errors import MeshError
from agentmesh.kit.ids import incarnation_of
from agentmesh_storage import wire
from agentmesh_storage.domain import Head
from agentmesh_storage.ports import News

log = telemetry.logger(__name__)

_COLLECT_S = 0.005
_HELLO_S = 3.0
_PEER_GONE_S = 10.0
_RECONNECT_S = 0.5
_MAX_HEADS = 10_000
_MAX_BODY_BYTES = 5_500  # in base64 it fits into PostgreSQL's 8,000 bytes a notification


class Wire(Protocol):
    """Carries texts of at most 8,000 bytes to every storage process; raises Unavailable when it is broken."""

    async def publish(self, texts: Sequence[str]) -> None:
        """Send texts to whoever listens, oneself too."""

    def listen(self) -> AsyncGenerator[str, None]:
        """Yield texts, an empty one once it listens; ends by raising."""


class Bulletin:
    """One storage process's board: `tell` pins news up for the others, `hear` gets theirs.

    `hear` is called with None when news may have been lost.
    """

    def __init__(self, wire: Wire, clock: Clock, hear: Callable[[News | None], None]) -> None:
        self._wire = wire
        self._clock = clock
        self._hear = hear
        self._me = incarnation_of("s")
        self._peers: dict[str, float] = {}
        self._heads: dict[str, Head] = {}
        self._agents: set[str] = set()
        self._wake = asyncio.Event()
        self._met = asyncio.Event()

    @property
    def has_peers(self) -> bool:
        """Whether another process was heard of lately."""
        return bool(self._peers)

    @property
    def has_something_to_tell(self) -> bool:
        """Whether news are collected."""
        return bool(self._heads or self._agents)

    def tell(self, news: News) -> None:
        """Queue news; the newest head of a task stands for the older ones."""
        if not self._peers:
            return
        for head in news.heads:
            if len(self._heads) >= _MAX_HEADS:
                break  # they poll
            self._heads[head.task_id] = head
        self._agents |= news.ready_agents
        self._wake.set()

    async def run(self) -> None:
        """Send and listen until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            tasks.create_task(self._greet())
            tasks.create_task(self._listen())

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_COLLECT_S)
            self._wake.clear()
            heads, self._heads = self._heads, {}
            agents, self._agents = self._agents, set()
            await self._publish([f"n {self._me} {body}" for body in _bodies(list(heads.values()), agents)])

    async def _greet(self) -> None:
        while True:
            await self._publish([f"h {self._me}"])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HELLO_S):
                    await self._met.wait()
            self._met.clear()
            now = self._clock.monotonic()
            self._peers = {peer: seen for peer, seen in self._peers.items() if now - seen < _PEER_GONE_S}

    async def _publish(self, texts: list[str]) -> None:
        if not texts:
            return
        try:
            await self._wire.publish(texts)
        except MeshError as error:
            log.info("news_not_sent", reason=error.reason)

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(self._wire.listen()) as texts:
                    async for text in texts:
                        if text:
                            self._take(text)
                        else:
                            self._hear(None)
                            await self._publish([f"h {self._me}"])
            except MeshError as error:
                log.info("news_not_heard", reason=error.reason)
            await asyncio.sleep(_RECONNECT_S)

    def _take(self, text: str) -> None:
        kind, _, rest = text.partition(" ")
        sender, _, body = rest.partition(" ")
        if sender == self._me:
            return
        if sender not in self._peers:
            self._hear(None)  # what it committed before it knew of us
            self._met.set()  # until it knows of us, it tells us nothing
        self._peers[sender] = self._clock.monotonic()
        if kind == "n":
            self._hear(_news_in(body))


def _bodies(heads: list[Head], agents: set[str]) -> list[str]:
    """Write news as texts that fit into one notification each."""
    bodies: list[str] = []
    message, size = pb.NewsOfStorage(ready_agents=sorted(agents)), sum(map(len, agents)) + 4 * len(agents)
    for head in heads:
        written = wire.to_head(head)
        size += written.ByteSize() + 4
        if size > _MAX_BODY_BYTES and (message.heads or message.ready_agents):
            bodies.append(_encoded(message))
            message, size = pb.NewsOfStorage(), written.ByteSize() + 4
        message.heads.append(written)
    if message.heads or message.ready_agents:
        bodies.append(_encoded(message))
    return bodies


def _encoded(message: pb.NewsOfStorage) -> str:
    return base64.b64encode(message.SerializeToString()).decode()


def _news_in(body: str) -> News:
    message = pb.NewsOfStorage.FromString(base64.b64decode(body))
    return News(heads=[wire.from_head(head) for head in message.heads], ready_agents=set(message.ready_agents))
