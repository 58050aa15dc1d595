"""The runner: runs attempts for its routers, keeps its lease, drains."""

import asyncio
from collections.abc import Callable

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit import telemetry
from agentmesh.kit.errors import DeadlineExceeded, MeshError, Unavailable
from agentmesh.kit.ids import incarnation_of
from agentmesh_runner.execution import execute, failed
from agentmesh_runner.hosts import HostPool
from agentmesh_runner.ports import Artifacts, Models
from agentmesh_runner.registry import Registry
from agentmesh_runner.running import Running
from agentmesh_runner.session import Session

log = telemetry.logger(__name__)

Stop = pb.StopAttempt

PASSIVATE_AFTER_S = 30.0
_TICK_S = 0.25
_LAST_WORDS_S = 5.0


class RunnerService:
    """Owns every attempt here. Times are seconds of the loop's monotonic clock."""

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
    ) -> None:
        self._name = name
        self._registry = registry
        self._models = models
        self._artifacts = artifacts
        self._hosts = hosts
        self._slots = slots
        self._lease_ttl_s = lease_ttl_s
        self._heartbeat_s = heartbeat_s
        self.incarnation = incarnation_of(name)
        self._lease_until = 0.0
        self._sessions: set[Session] = set()
        self._running: dict[str, Running] = {}
        self._session_of: dict[str, Session] = {}
        self._draining = False

    def agents(self) -> list[task_pb2.Agent]:
        """Describe the agents that are served here."""
        return [agent.to_wire() for agent in self._registry.classes]

    # -- sessions -----------------------------------------------------------------------------------------

    def connect(self, router: pb.RouterHello) -> Session:
        """Begin to speak with a router; attempts that nobody speaks for are offered to it."""
        for older in [session for session in self._sessions if session.router_id == router.router_id]:
            self.disconnect(older)  # the router has left that stream, though this side did not notice yet
        session = Session(router.router_id)
        self._sessions.add(session)
        orphans = [running for task_id, running in self._running.items() if task_id not in self._session_of]
        loop = asyncio.get_running_loop()
        session.beat(loop.time(), draining=False)
        self._lease_until = max(self._lease_until, loop.time() + self._lease_ttl_s)
        hello = pb.RunnerHello(
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
                for running in orphans
            ],
            agent_slots={a.name: self._hosts.limit for a in self._registry.classes if not a.inline},
        )
        session.put(pb.ExecuteTasksResponse(hello=hello))
        return session

    def disconnect(self, session: Session) -> None:
        """Stop speaking with a router; its attempts go on and wait for the next."""
        session.close()
        self._sessions.discard(session)
        for task_id in session.attempts:
            self._session_of.pop(task_id, None)

    def hear(self, session: Session, message: pb.ExecuteTasksRequest) -> None:
        """Take in what a router says."""
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
        if message.HasField("lease"):
            self._leased(session, message.lease)

    # -- attempts -----------------------------------------------------------------------------------------

    def _assign(self, session: Session, assignment: pb.Assignment) -> None:
        older = self._running.get(assignment.task_id)
        if older is not None:
            if older.attempt >= assignment.attempt:
                return
            self._drop(older)
        running = self.make(assignment, self._speak)
        self._own(session, running)
        running.task = asyncio.create_task(self.run(running))

    def make(self, assignment: pb.Assignment, speak: Callable[[Running], None]) -> Running:
        """Make an attempt that is not run yet; `speak` is called when it has something to send."""
        return Running(assignment, self._models, self._artifacts, speak)

    async def run(self, running: Running) -> None:
        """Run an attempt to its outcome."""
        try:
            outcome = await self._execute(running)
        except asyncio.CancelledError:
            if running.stop_reason == Stop.REASON_STALE:
                return
            outcome = self._stopped(running)
            await running.stop_calls()
        except Exception as error:
            log.error("attempt_died", task_id=running.task_id, exc_info=error)
            outcome = failed(Unavailable("the runner failed", reason="RUNNER_FAILED"))
        running.end(outcome)

    async def _execute(self, running: Running) -> pb.Outcome:
        await running.journal_complete.wait()
        try:
            agent = self._registry.get(running.assignment.spec.agent)
        except MeshError as error:
            return failed(error)
        if agent.inline:
            return await execute(agent, running.assignment, running)
        return await self._hosts.execute(running)

    @staticmethod
    def _stopped(running: Running) -> pb.Outcome:
        if not running.stop_reason:
            return failed(Unavailable("the agent let itself be canceled", reason="AGENT_FAILED"))
        if running.passivating:
            return pb.Outcome(released=pb.Outcome.Release(passivate=True, awaited_task_ids=running.awaited))
        if running.stop_reason == Stop.REASON_DEADLINE:
            late = DeadlineExceeded("the task ran out of time", reason="TASK_TIMEOUT")
            return failed(late, non_retryable=True)
        if running.stop_reason == _HAND_BACK:
            return pb.Outcome(released=pb.Outcome.Release())
        if running.stop_reason == _IDLE:
            return failed(DeadlineExceeded("the task said nothing for too long", reason="IDLE_TIMEOUT"))
        return pb.Outcome(canceled=pb.Outcome.Canceled())

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
            running.log.ack(ack.offset)
            if running.log.confirmed:
                self._forget(running)

    def _stop(self, stop: pb.StopAttempt) -> None:
        running = self._find(stop.task_id, stop.attempt)
        if running is None:
            return
        if stop.reason == Stop.REASON_STALE:
            self._drop(running)
        else:
            running.stop(stop.reason)

    def _drop(self, running: Running) -> None:
        self._forget(running)
        running.stop(Stop.REASON_STALE)

    def _own(self, session: Session, running: Running) -> None:
        self._running[running.task_id] = running
        old = self._session_of.get(running.task_id)
        if old is not None:
            old.attempts.pop(running.task_id, None)
        self._session_of[running.task_id] = session
        session.attempts[running.task_id] = running

    def _forget(self, running: Running) -> None:
        if self._running.get(running.task_id) is running:
            del self._running[running.task_id]
            session = self._session_of.pop(running.task_id, None)
            if session is not None:
                session.attempts.pop(running.task_id, None)

    def _find(self, task_id: str, attempt: int) -> Running | None:
        running = self._running.get(task_id)
        return running if running is not None and running.attempt == attempt else None

    def _speak(self, running: Running) -> None:
        session = self._session_of.get(running.task_id)
        if session is not None and self._running.get(running.task_id) is running:
            session.speak(running)

    # -- time ---------------------------------------------------------------------------------------------

    async def keep_time(self) -> None:
        """Send heartbeats, watch the lease, park what waits and stop what idles, until cancelled."""
        loop = asyncio.get_running_loop()
        next_beat = 0.0
        while True:
            now = loop.time()
            if self._running and now > self._lease_until:
                log.warning("lease_lost", runner=self.incarnation, attempts=len(self._running))
                self._lose_lease()
            if now >= next_beat:
                next_beat = now + self._heartbeat_s
                for session in self._sessions:
                    session.beat(now, draining=self._draining)
            for running in list(self._running.values()):
                self._look_at(running, now)
            await asyncio.sleep(_TICK_S)

    def _look_at(self, running: Running, now: float) -> None:
        if running.log.ended:
            return
        waited = running.waiting_since
        if waited is not None and now - waited > PASSIVATE_AFTER_S:
            running.passivating = True
            running.stop(_PARK)
        idle = running.assignment.spec.idle_timeout
        limit_s = idle.seconds + idle.nanos / 1e9
        if limit_s and waited is None and now - running.last_said > limit_s:
            running.stop(_IDLE)

    def _leased(self, session: Session, lease: pb.LeaseRenewed) -> None:
        if not lease.HasField("ttl"):
            log.warning("lease_taken", runner=self.incarnation)
            self._lose_lease()
            return
        sent = session.heartbeats.get(lease.heartbeat)
        if sent is not None:
            ttl_s = lease.ttl.seconds + lease.ttl.nanos / 1e9
            self._lease_until = max(self._lease_until, sent + ttl_s)

    def _lose_lease(self) -> None:
        """Stop every attempt without a word, and come back as somebody new."""
        for running in list(self._running.values()):
            self._drop(running)
        self.incarnation = incarnation_of(self._name)
        for session in list(self._sessions):
            self.disconnect(session)

    # -- the end ------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, let attempts end for so long, then hand the rest back."""
        loop = asyncio.get_running_loop()
        self._draining = True
        for session in self._sessions:
            session.beat(loop.time(), draining=True)
        for running in list(self._running.values()):
            if running.waiting_since is not None:
                running.passivating = True
                running.stop(_PARK)
        await self._until(lambda: all(r.log.ended for r in self._running.values()), timeout_s)
        for running in list(self._running.values()):
            running.stop(_HAND_BACK)
        if self._sessions:
            await self._until(lambda: not self._running, _LAST_WORDS_S)
        for session in list(self._sessions):
            self.disconnect(session)

    @staticmethod
    async def _until(holds: Callable[[], bool], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while not holds() and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # rare, and what is waited for is spread over many attempts


# Reasons of our own to stop an attempt, beside those that routers have.
_HAND_BACK, _PARK, _IDLE = 101, 102, 103
