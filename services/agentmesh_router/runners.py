"""What the router does with its runners: takes them in, renews their leases, adopts what they still run."""

import asyncio
import time

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit import telemetry
from agentmesh.kit.clock import duration, to_ms
from agentmesh.kit.errors import MeshError, NotFound, StaleAttempt
from agentmesh_router import wire
from agentmesh_router.adapters.runner_link import RunnerLink
from agentmesh_router.attempts import Attempt, Attempts
from agentmesh_router.background import Background
from agentmesh_router.catalog import Catalog
from agentmesh_router.domain import RetryPolicy
from agentmesh_router.news import News
from agentmesh_router.outcomes import Standing
from agentmesh_router.ports import Storage
from agentmesh_router.scheduler import Scheduler
from agentmesh_router.service import TaskEngine
from agentmesh_router.starting import Starter

log = telemetry.logger(__name__)

Stop = runner_pb.StopAttempt

_RETRY_S = 0.2


class Runners:
    """Speaks with every runner. `lease_ttl_s` is how long a lease lasts without renewal."""

    def __init__(
        self,
        storage: Storage,
        scheduler: Scheduler,
        attempts: Attempts,
        catalog: Catalog,
        engine: TaskEngine,
        starter: Starter,
        news: News,
        *,
        policy: RetryPolicy,
        lease_ttl_s: float,
    ) -> None:
        self._storage = storage
        self._scheduler = scheduler
        self._attempts = attempts
        self._catalog = catalog
        self._engine = engine
        self._starter = starter
        self._unsaved: dict[str, task_pb2.Agent] = {}
        self._news = news
        self._policy = policy
        self._lease_ttl_s = lease_ttl_s
        self._background = Background("runners")

    async def welcome(self, address: str, hello: runner_pb.RunnerHello) -> RunnerLink:
        """Take in a runner that presented itself; what it runs already is adopted or stopped."""
        link = RunnerLink(address, hello)
        await self._renew(link, 0)
        await self._announce(hello)
        for resume in hello.running:
            await self._adopt(link, resume)
        sync = pb.SyncRunner(incarnation=link.incarnation, running_task_ids=[r.task_id for r in hello.running])
        await self._storage.commit(pb.Mutation(sync_runner=sync))
        self._scheduler.add(link)
        return link

    async def hear(self, link: RunnerLink, message: runner_pb.ExecuteTasksResponse) -> None:
        """Take in what a runner says."""
        for batch in message.events:
            self._attempts.take(link, batch)
        for notice in message.waiting:
            self._attempts.wait(link, notice)
        for spawn in message.spawns:
            self._background.start(self._engine.spawn(link, spawn))
        if message.HasField("heartbeat"):
            link.draining = message.heartbeat.draining
            self._background.start(self._renew(link, message.heartbeat.number))
        if message.HasField("slots_elsewhere"):
            link.used_elsewhere(message.slots_elsewhere)
            self._scheduler.ready(())
        if message.HasField("hello"):
            link.update(message.hello)
            self._background.start(self._greet_again(link, message.hello))

    async def look_for_strays(self, interval_s: float) -> None:
        """Have storage hand back, again and again, what runners here should work on and nobody told them of.

        That is what this router lost track of, and what routers that are gone had claimed and not yet assigned.
        """
        while True:
            await asyncio.sleep(interval_s)
            for link in self._scheduler.links():
                self._attempts.doubt(link)

    def lose(self, link: RunnerLink) -> None:
        """Hear that a runner's stream broke."""
        self._scheduler.remove(link)
        self._attempts.lost(link)

    async def _renew(self, link: RunnerLink, heartbeat: int) -> None:
        renew = pb.RenewLease(incarnation=link.incarnation, name=link.name, ttl=duration(self._lease_ttl_s))
        try:
            await self._storage.commit(pb.Mutation(renew=renew))
        except StaleAttempt:
            log.warning("lease_lost", runner=link.incarnation)
            link.send(lease=runner_pb.LeaseRenewed(heartbeat=heartbeat))
            self._scheduler.remove(link)
            for attempt in self._attempts.of(link):
                self._attempts.forget(attempt)
            return
        link.send(lease=runner_pb.LeaseRenewed(heartbeat=heartbeat, ttl=duration(self._lease_ttl_s)))
        self._attempts.renew_tokens(link)

    async def _greet_again(self, link: RunnerLink, hello: runner_pb.RunnerHello) -> None:
        await self._announce(hello)
        for resume in hello.running:
            if self._attempts.get(resume.task_id) is None:
                await self._adopt(link, resume)
        self._scheduler.ready(link.agents)

    async def _announce(self, hello: runner_pb.RunnerHello) -> None:
        self._unsaved.update((agent.name, agent) for agent in self._catalog.announce(hello.agents))
        unsaved = list(self._unsaved.values())
        if unsaved:
            # Until it is committed it stays to be said: a router that starts knows only what storage does.
            await self._storage.commit(pb.Mutation(announce=pb.AnnounceAgents(agents=unsaved)))
            for agent in unsaved:
                if self._unsaved.get(agent.name) is agent:
                    del self._unsaved[agent.name]

    async def _adopt(self, link: RunnerLink, resume: runner_pb.Resume) -> None:
        change = pb.AdoptAttempt(task_id=resume.task_id, attempt=resume.attempt, incarnation=link.incarnation)
        while True:
            try:
                result = await self._storage.commit(pb.Mutation(tenant=resume.tenant, adopt=change))
                break
            except (StaleAttempt, NotFound) as error:
                log.info("attempt_not_adopted", task_id=resume.task_id, attempt=resume.attempt, reason=error.reason)
                link.send(stops=[Stop(task_id=resume.task_id, attempt=resume.attempt, reason=Stop.REASON_STALE)])
                return
            except MeshError:
                if not link.up:
                    raise
                await asyncio.sleep(_RETRY_S)  # storage is away; the attempt is as good as it was
        task = result.task
        standing = Standing(
            tenant=resume.tenant,
            policy=wire.retry_policy_of(task.spec, self._policy),
            failures=task.failures,
            asking=task.HasField("input_request"),
        )
        attempt = Attempt(
            task_id=task.id,
            attempt=task.attempt,
            agent=task.spec.agent,
            link=link,
            standing=standing,
            deadline=time.monotonic() + self._starter.time_left_s(task),
        )
        self._attempts.adopt(attempt, result.acked_offset)
        log.info("attempt_adopted", task_id=task.id, attempt=task.attempt, runner=link.incarnation)
        if task.HasField("cancel_requested_time") and to_ms(task.cancel_requested_time):
            self._attempts.stop(attempt, Stop.REASON_CANCELED)
        self._background.start(self._news.deliver_answers(attempt))
