"""What storage does: commits in groups, tells routers the news, sweeps up after the dead."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from agentmesh.kit import names, telemetry
from agentmesh.kit.batching import Batcher
from agentmesh.kit.clock import Clock
from agentmesh.kit.errors import MeshError
from agentmesh_storage.domain import Claimed, Head, Mutation, Offer, Outcome
from agentmesh_storage.ports import ArtifactFiles, News, TaskStore

log = telemetry.logger(__name__)

_commits = telemetry.counter(names.STORAGE_COMMITS_TOTAL, "Transactions that were committed")
_mutations = telemetry.counter(names.STORAGE_MUTATIONS_TOTAL, "Mutations that were applied or refused")
_leases_lost = telemetry.counter(names.STORAGE_LEASES_LOST_TOTAL, "Runners whose lease ran out or was taken")

_ABANDONED_AFTER_MS = 3_600_000
_MAX_HEADS = 10_000

Group = Sequence[Mutation]
Outcomes = list[Outcome | MeshError]


class Watcher:
    """The news that one router has not been told yet: at most one head a task, at most 10,000 tasks.

    A router that is slower than that loses the oldest; its poll finds them. Without a `router_id` it is told of
    agents only.
    """

    def __init__(self, router_id: str) -> None:
        self.router_id = router_id
        self.ready_agents: set[str] = set()
        self._heads: dict[str, Head] = {}
        self._wake = asyncio.Event()

    def tell(self, news: News) -> None:
        """Take news in."""
        for head in news.heads if self.router_id else ():
            if head.origin != self.router_id:
                if len(self._heads) >= _MAX_HEADS:
                    self._heads.pop(next(iter(self._heads)))
                self._heads[head.task_id] = head
        self.ready_agents |= news.ready_agents
        if self._heads or self.ready_agents:
            self._wake.set()

    async def heads(self) -> list[Head]:
        """Wait for heads and take them."""
        while not self._heads:
            self._wake.clear()
            await self._wake.wait()
        heads, self._heads = list(self._heads.values()), {}
        return heads

    async def agents(self) -> set[str]:
        """Wait for agents with ready work and take them."""
        while not self.ready_agents:
            self._wake.clear()
            await self._wake.wait()
        agents, self.ready_agents = self.ready_agents, set()
        return agents


class TaskKeeper:
    """Puts a store behind group commit and spreads its news.

    `lease_ttl_ms` is also how long the first sweep of leases waits, so that runners can renew after storage
    was away.
    """

    def __init__(self, store: TaskStore, files: ArtifactFiles, clock: Clock, *, lease_ttl_ms: int) -> None:
        self.store = store
        self._files = files
        self._clock = clock
        self._watchers: set[Watcher] = set()
        self._batcher: Batcher[Group, Outcomes] = Batcher(
            self._commit_groups, max_items=256, max_queued=4096, ticks=1, name="commit"
        )
        self._sweep_leases_from_ms = clock.now_ms() + lease_ttl_ms
        self._collected_ms = 0

    async def commit(self, mutations: Group) -> Outcomes:
        """Apply mutations in order, in one transaction with those of others; return after COMMIT."""
        return await self._batcher.submit(mutations) if mutations else []

    def commit_soon(self, mutations: Group) -> asyncio.Future[Outcomes]:
        """Queue mutations; raise QueueFull if storage is too far behind."""
        return self._batcher.submit_nowait(mutations)

    async def claim(self, offers: Sequence[Offer]) -> list[Claimed]:
        """Start attempts of ready tasks."""
        claimed, news = await self.store.claim(offers, self._clock.now_ms())
        self._spread(news)
        return claimed

    @contextmanager
    def watching(self, router_id: str) -> Iterator[Watcher]:
        """Collect news for a router while the block runs."""
        watcher = Watcher(router_id)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    async def sweep_forever(self, interval_s: float) -> None:
        """Sweep until cancelled; a sweep that fails is tried again."""
        while True:
            try:
                await self.sweep()
            except MeshError as error:
                log.warning("sweep_failed", reason=error.reason)
            except Exception as error:
                # Without sweeps no lost runner would ever be noticed.
                log.error("sweep_failed", exc_info=error)
            await asyncio.sleep(interval_s)

    async def sweep(self) -> None:
        """Free the tasks of dead runners, end overdue ones, announce ready ones, drop abandoned artifacts."""
        now = self._clock.now_ms()
        news = await self.store.sweep(now, expire_leases=now >= self._sweep_leases_from_ms)
        if news.leases_lost:
            _leases_lost.inc(news.leases_lost)
            log.warning("leases_lost", runners=news.leases_lost)
        self._spread(news)
        if now - self._collected_ms > _ABANDONED_AFTER_MS / 10:
            self._collected_ms = now
            for artifact_id in await self.store.abandoned_artifacts(now - _ABANDONED_AFTER_MS):
                await self._files.delete(artifact_id)

    async def aclose(self) -> None:
        """Commit what waits, then let go of the store."""
        await self._batcher.aclose()
        await self.store.aclose()

    async def _commit_groups(self, groups: list[Group]) -> list[Outcomes]:
        flat = [mutation for group in groups for mutation in group]
        outcomes, news = await self.store.commit(flat, self._clock.now_ms())
        _commits.inc()
        _mutations.inc(len(flat))
        self._spread(news)
        results, start = [], 0
        for group in groups:
            results.append(outcomes[start : start + len(group)])
            start += len(group)
        return results

    def _spread(self, news: News) -> None:
        if news.heads or news.ready_agents:
            for watcher in self._watchers:
                watcher.tell(news)
