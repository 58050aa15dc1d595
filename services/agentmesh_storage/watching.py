"""What routers have not been told yet: logs that grew, agents with ready work, how much waits."""

import asyncio
from collections.abc import Mapping

from agentmesh_storage.domain import Head
from agentmesh_storage.ports import News

_MAX_HEADS = 10_000


class Watcher:
    """The news that one router has not been told yet: at most one head a task, at most 10,000 tasks.

    A router that is slower than that is told to look at everything again. Without a `router_id` it is told of agents
    and of what waits only.
    """

    def __init__(self, router_id: str) -> None:
        self.router_id = router_id
        self._agents: set[str] = set()
        self._backlog: Mapping[str, int] | None = None
        self._heads: dict[str, Head] = {}
        self._missed = False
        self._wake = asyncio.Event()

    def tell(self, news: News) -> None:
        """Take news in."""
        for head in news.heads if self.router_id else ():
            if head.origin != self.router_id:
                if len(self._heads) >= _MAX_HEADS and head.task_id not in self._heads:
                    self._missed = True
                    break
                self._heads[head.task_id] = head
        self._agents |= news.ready_agents
        if self._heads or self._agents:
            self._wake.set()

    def miss(self) -> None:
        """Hear that news may have been lost."""
        self._missed = bool(self.router_id)
        self._wake.set()

    def count(self, backlog: Mapping[str, int]) -> None:
        """Hear how many tasks of each tenant wait."""
        self._backlog = backlog
        self._wake.set()

    async def heads(self) -> tuple[list[Head], bool]:
        """Wait for heads and take them; also say whether some were lost."""
        while not self._heads and not self._missed:
            self._wake.clear()
            await self._wake.wait()
        heads, self._heads = list(self._heads.values()), {}
        missed, self._missed = self._missed, False
        return heads, missed

    async def hints(self) -> tuple[set[str], Mapping[str, int] | None]:
        """Wait for agents with ready work, or for a count of what waits, and take them."""
        while not self._agents and self._backlog is None:
            self._wake.clear()
            await self._wake.wait()
        agents, self._agents = self._agents, set()
        backlog, self._backlog = self._backlog, None
        return agents, backlog
