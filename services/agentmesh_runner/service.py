"""The runner: runs attempts for its routers, keeps its lease, drains."""

import asyncio
from collections.abc import Callable, Sequence

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit import telemetry
from agentmesh.kit.errors import MeshError, Unavailable
from agentmesh.kit.ids import incarnation_of
from agentmesh.kit.tracing import Tracer
from agentmesh_runner import stopping
from agentmesh_runner.attempt_spans import open_span
from agentmesh_runner.execution import execute, failed
from agentmesh_runner.hosts import HostPool
from agentmesh_runner.lease import Lease
from agentmesh_runner.ports import Artifacts, Models
from agentmesh_runner.registry import Registry
from agentmesh_runner.routers import Routers
from agentmesh_runner.running import Running
from agentmesh_runner.session import Session
from agentmesh_runner.stopping import Stop

log = telemetry.logger(__name__)

PASSIVATE_AFTER_S = 30.0
_TICK_S = 0.25
_LAST_WORDS_S = 5.0


class RunnerService:
    """Owns every attempt here. Times are monotonic seconds, as the lease counts them."""

    def __init__(
        self,
        name: str,
        registry: Registry,
        models: Models,
        artifacts: Artifacts,
        hosts: HostPool,
        *,
        slots: int,
        lease_ttl_s: float,
        heartbeat_s: float,
        lease: Lease | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._name = name
        self._tracer = tracer
        self._registry = registry
        self._models = models
        self._artifacts = artifacts
        self._hosts = hosts
        self._slots = slots
        self._lease_ttl_s = lease_ttl_s
        self._heartbeat_s = heartbeat_s
        self.incarnation = incarnation_of(name)
        self._lease = lease or Lease()
        self._lease.on_over = self._keep_lease
        self._next_beat = 0.0
        self._agent_slots = {agent.name: hosts.limit for agent in registry.classes if not agent.inline}
        self._routers = Routers(self._hello, self._agent_slots)
        self._running: dict[str, Running] = {}
        self._draining = False

    def agents(self) -> list[task_pb2.Agent]:
        """Describe the agents that are served here."""
        return [agent.to_wire() for agent in self._registry.classes]

    # -- sessions -----------------------------------------------------------------------------------------

    def connect(self, router: pb.RouterHello) -> Session:
        """Begin to speak with a router; attempts that nobody speaks for are offered to it."""
        self._keep_lease()
        now = self._lease.now()
        if not self._running:
            self._lease.extend(now + self._lease_ttl_s)  # there is nothing that anybody else could have by now
        session = self._routers.join(router.router_id, self._running.values())
        session.beat(now, draining=False)
        if self._draining:
            session.beat(now, draining=True)
        return session

    def disconnect(self, session: Session) -> None:
        """Stop speaking with a router; its attempts go on, with another or with the next."""
        self._routers.leave(session)

    def hear(self, session: Session, message: pb.ExecuteTasksRequest) -> None:
        """Take in what a router says."""
        if message.HasField("lease"):
            self._leased(session, message.lease)
        self._keep_lease()
        if not session.open:
            return
        for ack in message.acks:
            self._acked(ack)
        for assignment in message.assignments:
            self._assign(session, assignment)
        for page in message.journal_pages:
            self._add_journal(page)
        for adopted in message.adopted:
            self._adopted(session, adopted)
        for stop in message.stops:
            self._stop(stop)
        for delivery in message.inputs:
            if (running := self._find(delivery.task_id, delivery.attempt)) is not None:
                running.told_input(delivery)
        for update in message.children:
            if (running := self._find(update.task_id, update.attempt)) is not None:
                running.told_of_child(update)
        for renewed in message.tokens:
            if (running := self._find(renewed.task_id, renewed.attempt)) is not None:
                running.token = renewed.token

    def _hello(self, attempts: Sequence[Running]) -> pb.RunnerHello:
        return pb.RunnerHello(
            name=self._name,
            incarnation=self.incarnation,
            slots=self._slots,
            agents=self.agents(),
            running=[
                pb.Resume(
                    task_id=running.task_id,
                    attempt=running.attempt,
                    acked_offset=running.log.acked_offset,
                    tenant=running.assignment.tenant,
                )
                for running in attempts
            ],
            agent_slots=self._agent_slots,
        )

    # -- attempts -----------------------------------------------------------------------------------------

    def _assign(self, session: Session, assignment: pb.Assignment) -> None:
        older = self._running.get(assignment.task_id)
        if older is not None:
            if older.attempt >= assignment.attempt:
                return
            self._drop(older, Stop.REASON_STALE)
        running = self.make(assignment, self._speak, self._lease)
        self._own(session, running)
        if self._draining or self._lease.over:
            # What lay in the socket for too long may be somebody else's by now: then nobody hears this.
            running.end(pb.Outcome(released=pb.Outcome.Release()))
            return
        running.task = asyncio.create_task(self.run(running))

    def make(self, assignment: pb.Assignment, speak: Callable[[Running], None], lease: Lease | None = None) -> Running:
        """Make an attempt that is not run yet; `speak` is called when it has something to send."""
        span = open_span(self._tracer, assignment)
        return Running(assignment, self._models, self._artifacts, speak, lease, span)

    async def run(self, running: Running) -> None:
        """Run an attempt to its outcome."""
        try:
            outcome = await self._execute(running)
        except asyncio.CancelledError:
            outcome = stopping.outcome_of(running.stop_reason, running.awaited)
        except Exception as error:
            log.error("attempt_died", task_id=running.task_id, exc_info=error)
            outcome = failed(Unavailable("the runner failed", reason="RUNNER_FAILED"))
        if running.lease.over:
            running.lease.on_over()
        if running.stop_reason in stopping.SILENT:
            if running.span is not None:
                running.span.end(None)
            return
        if running.stop_reason and outcome.HasField("failed"):
            outcome = stopping.outcome_of(running.stop_reason, running.awaited)  # rather than how the agent took it
        if running.span is not None:
            running.span.end(outcome)
        running.end(outcome)
        if not outcome.HasField("released"):
            await running.stop_calls()

    async def _execute(self, running: Running) -> pb.Outcome:
        await running.journal_complete.wait()
        try:
            agent = self._registry.get(running.assignment.spec.agent)
        except MeshError as error:
            return failed(error)
        if agent.inline:
            return await execute(agent, running.assignment_now(), running)
        return await self._hosts.execute(running)

    def _add_journal(self, page: pb.JournalPage) -> None:
        running = self._find(page.task_id, page.attempt)
        if running is not None:
            running.assignment.journal.extend(page.journal)
            if page.last:
                running.journal_complete.set()

    def _adopted(self, session: Session, adopted: pb.Adopted) -> None:
        running = self._find(adopted.task_id, adopted.attempt)
        if running is None:
            return
        running.token = adopted.token
        running.log.rewind(adopted.acked_offset)
        running.resume()
        if running.log.confirmed:
            self._forget(running)
        else:
            self._own(session, running)
            self._speak(running)

    def _acked(self, ack: pb.AckedOffset) -> None:
        running = self._find(ack.task_id, ack.attempt)
        if running is not None:
            running.acked(ack.offset)
            if running.log.confirmed:
                self._forget(running)

    def _stop(self, stop: pb.StopAttempt) -> None:
        running = self._find(stop.task_id, stop.attempt)
        if running is None:
            return
        if stop.reason == Stop.REASON_STALE:
            self._drop(running, Stop.REASON_STALE)
        else:
            running.stop(stop.reason)

    def _drop(self, running: Running, reason: int) -> None:
        self._forget(running)
        running.stop(reason)

    def _own(self, session: Session, running: Running) -> None:
        self._running[running.task_id] = running
        self._routers.own(session, running)

    def _forget(self, running: Running) -> None:
        if self._running.get(running.task_id) is running:
            del self._running[running.task_id]
            self._routers.forget(running)

    def _find(self, task_id: str, attempt: int) -> Running | None:
        running = self._running.get(task_id)
        return running if running is not None and running.attempt == attempt else None

    def _speak(self, running: Running) -> None:
        if self._running.get(running.task_id) is running:
            self._routers.speak(running)

    # -- time ---------------------------------------------------------------------------------------------

    async def keep_time(self) -> None:
        """Look at the time again and again, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_TICK_S)

    def look(self) -> None:
        """Watch the lease, send heartbeats that are due, park what waits and stop what idles."""
        self._keep_lease()
        now = self._lease.now()
        if now >= self._next_beat:
            self._next_beat = now + self._heartbeat_s
            for session in self._routers:
                session.beat(now, draining=self._draining)
        for running in list(self._running.values()):
            self._look_at(running, now)

    def _look_at(self, running: Running, now: float) -> None:
        if running.log.ended:
            return
        waited = running.waiting_since
        if waited is not None and (self._draining or now - waited > PASSIVATE_AFTER_S):
            running.stop(stopping.PARK)
        idle = running.assignment.spec.idle_timeout
        limit_s = idle.seconds + idle.nanos / 1e9
        if limit_s and waited is None and running.log.is_settled and now - running.last_said > limit_s:
            running.stop(stopping.IDLE)
        if now >= running.deadline:
            running.stop(Stop.REASON_DEADLINE)

    def _leased(self, session: Session, lease: pb.LeaseRenewed) -> None:
        if not lease.HasField("ttl"):
            log.warning("lease_taken", runner=self.incarnation)
            self._lose_lease()
            return
        sent = session.answered(lease.heartbeat)
        if sent is not None:
            self._lease.extend(sent + lease.ttl.seconds + lease.ttl.nanos / 1e9)
            self._hosts.lease_extended()

    def _keep_lease(self) -> None:
        """Lose the lease if its time is over; before anything that came in meanwhile is acted on."""
        if self._lease.over and any(not running.log.ended for running in self._running.values()):
            log.warning("lease_lost", runner=self.incarnation, attempts=len(self._running))
            self._lose_lease()

    def _lose_lease(self) -> None:
        """Stop every attempt without a word, and come back as somebody new."""
        for running in list(self._running.values()):
            self._drop(running, stopping.LEASE_LOST)
        self.incarnation = incarnation_of(self._name)
        for session in self._routers:
            self.disconnect(session)

    # -- the end ------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, let attempts end for so long, then hand the rest back."""
        self._draining = True
        self._next_beat = 0.0
        self.look()
        await self._until(lambda: all(r.log.ended for r in self._running.values()), timeout_s)
        for running in list(self._running.values()):
            running.stop(stopping.HAND_BACK)
        if self._routers:
            # A router that answered the heartbeat gives nothing more to this runner.
            await self._until(
                lambda: not self._running and all(router.knows_of_drain for router in self._routers), _LAST_WORDS_S
            )
        for session in self._routers:
            self.disconnect(session)

    @staticmethod
    async def _until(holds: Callable[[], bool], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while not holds() and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # rare, and what is waited for is spread over many attempts
