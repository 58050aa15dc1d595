"""The attempts that run now: what they say is committed, acknowledged and spread, in this order."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import names, telemetry
from agentmesh.kit.auth import Keyring, TaskClaims
from agentmesh.kit.clock import Clock, duration
from agentmesh.kit.errors import MeshError, NotFound, StaleAttempt, from_status
from agentmesh.kit.wire import TERMINAL
from agentmesh_router import outcomes
from agentmesh_router.adapters.runner_link import RunnerLink
from agentmesh_router.background import Background
from agentmesh_router.hub import Hub
from agentmesh_router.outcomes import Standing
from agentmesh_router.ports import Storage
from agentmesh_router.scheduler import Scheduler

log = telemetry.logger(__name__)

Stop = runner_pb.StopAttempt

_DEADLINE_GRACE_S = 2.0
_RESYNC_BACKOFF_S = 0.2

_requests = telemetry.counter(names.REQUESTS_TOTAL, "Tasks that ended", ("agent_type", "status"))
_duration = telemetry.histogram(names.REQUEST_DURATION, "How long tasks ran", ("agent_type",))
_active = telemetry.gauge(names.ACTIVE_TASKS, "Attempts that run now", ("agent_type",))


class _Numbers:
    """The metrics of one agent, looked up once."""

    def __init__(self, agent: str) -> None:
        self.active = _active.labels(agent)
        self.duration = _duration.labels(agent)
        self.ended = {state: _requests.labels(agent, _word(state)) for state in TERMINAL}


@dataclass(slots=True)
class Attempt:
    """An attempt of this router. Times are monotonic seconds."""

    task_id: str
    attempt: int
    agent: str
    link: RunnerLink
    standing: Standing
    deadline: float | None
    started: float = field(default_factory=time.monotonic)
    expected: int = 0  # offset of what should come next
    waiting: bool = False
    over: bool = False  # its outcome has come
    resyncing: bool = False


class Attempts:
    """Owns every attempt that this router assigned or adopted."""

    def __init__(
        self, storage: Storage, hub: Hub, scheduler: Scheduler, keyring: Keyring, clock: Clock, *, lease_ttl_s: float
    ) -> None:
        self._storage = storage
        self._hub = hub
        self._scheduler = scheduler
        self._keyring = keyring
        self._clock = clock
        self._lease_ttl_s = lease_ttl_s
        self._running: dict[str, Attempt] = {}
        self._background = Background("attempts")
        self._numbers_of: dict[str, _Numbers] = {}
        self.on_ended: Callable[[str, str, str], None] = lambda tenant, task_id, parent_id: None

    # -- beginning ----------------------------------------------------------------------------------------

    def assign(
        self,
        attempt: Attempt,
        spec: task_pb2.TaskSpec,
        *,
        time_left_s: float,
        traceparent: str,
        steps: Sequence[runner_pb.StepRecord] = (),
        history: Sequence[types_pb2.Message] = (),
        journal_continues: bool = False,
    ) -> None:
        """Send an attempt to its runner; its slot is reserved already."""
        self._add(attempt)
        if not attempt.link.up:
            return  # storage is told of it when the runner comes back without it
        size = spec.ByteSize() + sum(step.ByteSize() for step in steps) + sum(m.ByteSize() for m in history) + 512
        assignment = attempt.link.outbox.open(size).assignments.add(
            task_id=attempt.task_id,
            attempt=attempt.attempt,
            tenant=attempt.standing.tenant,
            spec=spec,
            token=self._token(attempt),
            time_left=duration(time_left_s),
            traceparent=traceparent,
            journal_continues=journal_continues,
        )
        if steps:
            assignment.journal.extend(steps)
        if history:
            assignment.history.extend(history)

    def adopt(self, attempt: Attempt, acked_offset: int) -> None:
        """Go on with an attempt that already runs."""
        attempt.link.use(attempt.agent)
        attempt.expected = acked_offset
        self._add(attempt)
        attempt.link.send(adopted=[self._adopted(attempt)])

    def get(self, task_id: str) -> Attempt | None:
        """Return the running attempt of a task, if it is ours."""
        return self._running.get(task_id)

    def task_ids(self) -> list[str]:
        """Return the tasks whose attempts are ours."""
        return list(self._running)

    def of(self, link: RunnerLink) -> list[Attempt]:
        """Return the attempts of a runner."""
        return [attempt for attempt in self._running.values() if attempt.link is link]

    # -- what comes up ------------------------------------------------------------------------------------

    def take(self, link: RunnerLink, batch: runner_pb.EventBatch) -> None:
        """Commit what an attempt says; what doesn't hold its task any more is told to stop."""
        attempt = self._running.get(batch.task_id)
        if attempt is None or attempt.attempt != batch.attempt or attempt.link is not link:
            link.send(stops=[Stop(task_id=batch.task_id, attempt=batch.attempt, reason=Stop.REASON_STALE)])
            return
        if attempt.resyncing or batch.first_offset != attempt.expected:
            return  # it will be sent again from the acknowledged offset on
        now_ms = self._clock.now_ms()
        mutation = pb.Mutation(tenant=attempt.standing.tenant, traceparent=batch.traceparent)
        append = mutation.append
        try:
            outcomes.fill_append(append, batch, attempt.standing, now_ms)
        except MeshError as error:
            log.warning("runner_broke_the_rules", task_id=attempt.task_id, reason=error.reason)
            outcomes.fill_failed(append, batch, error, now_ms)
            self.stop(attempt, Stop.REASON_STALE)
        attempt.expected += append.offsets
        if batch.HasField("outcome") or outcomes.is_terminal(append):
            self._leave(attempt)
        try:
            pending = self._storage.commit_soon(mutation)
        except MeshError:
            self._resync(attempt)
            return
        pending.add_done_callback(partial(self._committed, attempt, append))

    def wait(self, link: RunnerLink, notice: runner_pb.Waiting) -> None:
        """Free an attempt's slot while it waits."""
        attempt = self._running.get(notice.task_id)
        if attempt is None or attempt.link is not link or attempt.over or attempt.waiting == notice.waiting:
            return
        attempt.waiting = notice.waiting
        if notice.waiting:
            self._scheduler.release(link, attempt.agent)
        else:
            link.use(attempt.agent)

    # -- what goes down -----------------------------------------------------------------------------------

    def stop(self, attempt: Attempt, reason: runner_pb.StopAttempt.Reason.ValueType) -> None:
        """Tell a runner to stop an attempt."""
        attempt.link.send(stops=[Stop(task_id=attempt.task_id, attempt=attempt.attempt, reason=reason)])

    def renew_tokens(self, link: RunnerLink) -> None:
        """Send fresh tokens for every attempt of a runner."""
        renewed = [
            runner_pb.RenewedToken(task_id=a.task_id, attempt=a.attempt, token=self._token(a)) for a in self.of(link)
        ]
        if renewed:
            link.send(tokens=renewed)

    def forget(self, attempt: Attempt) -> None:
        """Let an attempt go that is not ours any more."""
        self._leave(attempt)
        if self._running.get(attempt.task_id) is attempt:
            del self._running[attempt.task_id]

    def doubt(self, link: RunnerLink) -> None:
        """Have storage hand back what it holds for a runner without its having been assigned."""
        if not link.unsure:
            link.unsure = True
            self._background.start(self._sync(link))

    def lost(self, link: RunnerLink) -> None:
        """Forget the attempts of a runner whose stream broke; they are adopted when it comes back."""
        for attempt in self.of(link):
            self.forget(attempt)

    def stop_overdue(self) -> None:
        """Stop attempts whose runner did not stop them when their time was up."""
        now = time.monotonic()
        for attempt in list(self._running.values()):
            if attempt.deadline is not None and attempt.deadline + _DEADLINE_GRACE_S < now and not attempt.over:
                self.stop(attempt, Stop.REASON_DEADLINE)

    # -- inside -------------------------------------------------------------------------------------------

    def _add(self, attempt: Attempt) -> None:
        self._running[attempt.task_id] = attempt
        self._numbers(attempt.agent).active.inc()

    def _leave(self, attempt: Attempt) -> None:
        if attempt.over:
            return
        attempt.over = True
        self._numbers(attempt.agent).active.dec()
        if not attempt.waiting:
            self._scheduler.release(attempt.link, attempt.agent)

    def _committed(
        self, attempt: Attempt, append: pb.AppendEvents, future: "asyncio.Future[pb.MutationResult]"
    ) -> None:
        broken = future.exception()
        result = None if broken else future.result()
        if result is None or result.HasField("error"):
            self._refused(attempt, from_status(result.error) if result is not None else None)
            return
        terminal = outcomes.is_terminal(append)
        if result.first_sequence:
            self._hub.publish(
                append.task_id,
                append.attempt,
                result.first_sequence,
                append.event_count,
                append.events,
                last=result.last_sequence,
                terminal=terminal,
            )
        attempt.link.acknowledge(append.task_id, append.attempt, result.acked_offset)
        if not attempt.over:
            if result.cancel_requested:
                self.stop(attempt, Stop.REASON_CANCELED)
            return
        if self._running.get(attempt.task_id) is attempt and result.acked_offset >= attempt.expected:
            del self._running[attempt.task_id]
        if terminal:
            numbers = self._numbers(attempt.agent)
            numbers.ended[append.state].inc()
            numbers.duration.observe(time.monotonic() - attempt.started)
            if result.parent_id:
                self.on_ended(attempt.standing.tenant, attempt.task_id, result.parent_id)
        elif (
            append.state == events_pb2.TASK_STATE_SUBMITTED
            and not append.passivate
            and not append.HasField("ready_time")
        ):
            self._scheduler.ready({attempt.agent})

    def _refused(self, attempt: Attempt, error: MeshError | None) -> None:
        if isinstance(error, StaleAttempt):
            self.stop(attempt, Stop.REASON_STALE)
            self.forget(attempt)
        else:
            self._resync(attempt)

    def _resync(self, attempt: Attempt) -> None:
        """Storage did not take a batch: find out what it has, then let the runner send from there."""
        if attempt.resyncing or self._running.get(attempt.task_id) is not attempt:
            return
        attempt.resyncing = True
        self._background.start(self._readopt(attempt))

    async def _sync(self, link: RunnerLink) -> None:
        while link.up and link.unsure:
            link.unsure = False
            # What a claim under way brings is not known here yet, and would be taken for forgotten.
            async with self._scheduler.claiming:
                running = [attempt.task_id for attempt in self.of(link)]
                change = pb.SyncRunner(incarnation=link.incarnation, running_task_ids=[*running, *link.claiming])
                try:
                    await self._storage.commit(pb.Mutation(sync_runner=change))
                    continue
                except MeshError:
                    link.unsure = True
            await asyncio.sleep(_RESYNC_BACKOFF_S)

    async def _readopt(self, attempt: Attempt) -> None:
        change = pb.AdoptAttempt(task_id=attempt.task_id, attempt=attempt.attempt, incarnation=attempt.link.incarnation)
        while attempt.link.up and self._running.get(attempt.task_id) is attempt:
            try:
                result = await self._storage.commit(pb.Mutation(tenant=attempt.standing.tenant, adopt=change))
            except (StaleAttempt, NotFound):
                self.stop(attempt, Stop.REASON_STALE)
                self.forget(attempt)
                self._hub.doubt(attempt.task_id)
                return
            except MeshError:
                await asyncio.sleep(_RESYNC_BACKOFF_S)
                continue
            attempt.expected = result.acked_offset
            attempt.resyncing = False
            attempt.link.send(adopted=[self._adopted(attempt)])
            return

    def _adopted(self, attempt: Attempt) -> runner_pb.Adopted:
        return runner_pb.Adopted(
            task_id=attempt.task_id,
            attempt=attempt.attempt,
            acked_offset=attempt.expected,
            token=self._token(attempt),
        )

    def _numbers(self, agent: str) -> _Numbers:
        numbers = self._numbers_of.get(agent)
        if numbers is None:
            numbers = self._numbers_of[agent] = _Numbers(agent)
        return numbers

    def _token(self, attempt: Attempt) -> str:
        expires_at = self._clock.now_ms() / 1000 + self._lease_ttl_s
        return self._keyring.sign(TaskClaims(attempt.standing.tenant, attempt.task_id, attempt.attempt, expires_at))


def _word(state: events_pb2.TaskState.ValueType) -> str:
    return events_pb2.TaskState.Name(state).removeprefix("TASK_STATE_").lower()
