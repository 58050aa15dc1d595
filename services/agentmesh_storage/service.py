"""What storage does: commits in groups, tells routers the news, sweeps up after the dead."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agentmesh.kit import names, telemetry
from agentmesh.kit.batching import Batcher
from agentmesh.kit.clock import Clock
from agentmesh.kit.errors import MeshError
from agentmesh_storage.commit_spans import CommitSpans
from agentmesh_storage.domain import Claimed, Mutation, Offer, Outcome, SyncRunner
from agentmesh_storage.ports import ArtifactFiles, News, Retention, TaskStore
from agentmesh_storage.watching import Watcher

log = telemetry.logger(__name__)

_commits = telemetry.counter(names.STORAGE_COMMITS_TOTAL, "Transactions that were committed")
_commit_duration = telemetry.histogram(
    names.STORAGE_COMMIT_DURATION, "From when a group of mutations was closed to its COMMIT"
)
_mutations = telemetry.counter(names.STORAGE_MUTATIONS_TOTAL, "Mutations that were applied or refused")
_leases_lost = telemetry.counter(names.STORAGE_LEASES_LOST_TOTAL, "Runners whose lease ran out or was taken")
_waiting_tasks = telemetry.gauge(names.STORAGE_WAITING_TASKS, "Tasks that wait for a slot")
_oldest_waiting = telemetry.gauge(names.STORAGE_OLDEST_WAITING, "How long the first of them has waited")
_pruned = telemetry.counter(names.STORAGE_PRUNED_TOTAL, "What was kept long enough and is forgotten", ("what",))
_news_missed = telemetry.counter(names.STORAGE_NEWS_MISSED_TOTAL, "Times that news of other processes may be lost")

_ABANDONED_AFTER_MS = 3_600_000
_OVERLAP_AT = 48  # a second commit at once pays only for so many
_EVERYTHING = "*"
_PRUNE_S, _PRUNE_MORE_S = 60.0, 0.5
_COUNT_S, _COUNT_UP_TO = 1.0, 100_000
_AGE_S = 5.0
KEPT_FOR_EVER = Retention(events_ms=10**15, tasks_ms=10**15, request_ids_ms=10**15, batch=1)

Group = Sequence[Mutation]
Outcomes = list[Outcome | MeshError]


class TaskKeeper:
    """Puts a store behind group commit and spreads its news.

    `lease_ttl_ms` is also how long sweeps of leases wait after storage or its database was away, so that runners can
    renew first. At most `commits` transactions are under way at once, never two with the same task. `on_news` hears
    what was committed here.
    """

    def __init__(
        self,
        store: TaskStore,
        files: ArtifactFiles,
        clock: Clock,
        *,
        lease_ttl_ms: int,
        retention: Retention = KEPT_FOR_EVER,
        commits: int = 1,
        spans: CommitSpans | None = None,
    ) -> None:
        self.store = store
        self.on_news: Callable[[News], None] = lambda news: None
        self._files = files
        self._clock = clock
        self._spans = spans
        self._watchers: set[Watcher] = set()
        self._batcher: Batcher[Group, Outcomes] = Batcher(
            self._commit_groups,
            max_items=256,
            max_queued=4096,
            max_in_flight=commits,
            overlap_at=_OVERLAP_AT,
            ticks=1,
            name="commit",
        )
        self._committing: dict[asyncio.Future[None], set[str]] = {}
        self._lease_ttl_ms = lease_ttl_ms
        self._retention = retention
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
                await self.fire()
            except MeshError as error:
                log.warning("sweep_failed", reason=error.reason)
                self._sweep_leases_from_ms = self._clock.now_ms() + self._lease_ttl_ms
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

    async def prune_forever(self) -> None:
        """Forget what is kept long enough, a batch at a time, until cancelled."""
        while True:
            more = False
            try:
                more = await self.prune()
            except MeshError as error:
                log.warning("prune_failed", reason=error.reason)
            await asyncio.sleep(_PRUNE_MORE_S if more else _PRUNE_S)

    async def prune(self) -> bool:
        """Forget one batch; say whether there is more."""
        pruned = await self.store.prune(self._clock.now_ms(), self._retention)
        for artifact_id in pruned.artifact_ids:
            await self._files.delete(artifact_id)
        for what, count in (("logs", pruned.logs), ("tasks", pruned.tasks), ("requests", pruned.requests)):
            _pruned.labels(what).inc(count)
        return pruned.more

    async def count_forever(self) -> None:
        """Tell routers how much waits, until cancelled."""
        while True:
            await asyncio.sleep(_COUNT_S)
            try:
                backlog = await self.store.backlog(_COUNT_UP_TO)
            except MeshError as error:
                log.info("backlog_not_counted", reason=error.reason)
                continue
            _waiting_tasks.set(sum(backlog.values()))
            for watcher in self._watchers:
                watcher.count(backlog)

    async def watch_age_forever(self) -> None:
        """Measure how long the queue's oldest task has waited, until cancelled."""
        while True:
            await asyncio.sleep(_AGE_S)
            try:
                since_ms = await self.store.oldest_waiting_ms()
            except MeshError as error:
                log.info("queue_age_not_measured", reason=error.reason)
                continue
            age_ms = 0 if since_ms is None else max(0, self._clock.now_ms() - since_ms)
            _oldest_waiting.set(age_ms / 1000)

    def hear(self, news: News | None) -> None:
        """Spread what another process committed; None means that some of it may be lost."""
        if news is None:
            _news_missed.inc()
        for watcher in self._watchers:
            if news is None:
                watcher.miss()
            else:
                watcher.tell(news)

    async def fire(self) -> None:
        """Make the tasks of the schedules that are due."""
        more = True
        while more:
            news, more = await self.store.fire(self._clock.now_ms())
            self._spread(news)

    async def aclose(self) -> None:
        """Commit what waits, then let go of the store."""
        await self._batcher.aclose()
        await self.store.aclose()

    async def _commit_groups(self, groups: list[Group]) -> list[Outcomes]:
        flat = [mutation for group in groups for mutation in group]
        began, began_ns = self._clock.monotonic(), time.time_ns()
        outcomes, news = await self._in_turn(flat)
        _commit_duration.observe(self._clock.monotonic() - began)
        _commits.inc()
        _mutations.inc(len(flat))
        if self._spans is not None:
            self._spans.record(began_ns, flat, outcomes)
        self._spread(news)
        results, start = [], 0
        for group in groups:
            results.append(outcomes[start : start + len(group)])
            start += len(group)
        return results

    async def _in_turn(self, mutations: list[Mutation]) -> tuple[Outcomes, News]:
        """Commit after those under way that have a task in common: what a task says must stay in order."""
        touched = {getattr(m.change, "task_id", "") or getattr(m.change, "parent_id", "") for m in mutations} - {""}
        if any(isinstance(m.change, SyncRunner) for m in mutations):
            touched.add(_EVERYTHING)  # it looks at everything that was committed before it, and at nothing after
        before = [
            done
            for done, others in self._committing.items()
            if touched & others or _EVERYTHING in touched or _EVERYTHING in others
        ]
        done = asyncio.get_running_loop().create_future()
        self._committing[done] = touched
        try:
            if before:
                await asyncio.wait(before)
            return await self.store.commit(mutations, self._clock.now_ms())
        finally:
            del self._committing[done]
            done.set_result(None)

    def _spread(self, news: News) -> None:
        if news.heads or news.ready_agents:
            for watcher in self._watchers:
                watcher.tell(news)
            self.on_news(news)
