"""The task engine: accepts tasks, starts them, steers them."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import telemetry
from agentmesh.kit.clock import Clock, timestamp, to_ms
from agentmesh.kit.errors import InvalidRequest, MeshError, Unavailable, WrongState, from_status, to_status
from agentmesh.kit.ids import is_id, new_id
from agentmesh.kit.wire import TERMINAL
from agentmesh_router import wire
from agentmesh_router.adapters.runner_link import RunnerLink
from agentmesh_router.admission import Admission, Entry
from agentmesh_router.attempts import Attempts
from agentmesh_router.background import fail
from agentmesh_router.catalog import Catalog
from agentmesh_router.domain import DEFAULT_PRIORITY, MAX_REQUEST_ID, request_hash, violations_of
from agentmesh_router.hub import Hub, Subscription
from agentmesh_router.news import News
from agentmesh_router.ports import Storage
from agentmesh_router.scheduler import Scheduler
from agentmesh_router.starting import Starter

log = telemetry.logger(__name__)

Stop = runner_pb.StopAttempt

_MAX_HISTORY = 50
_MAX_NAMED = 5
_MAX_HISTORY_BYTES = 256 * 1024
_RECONNECT_S = 0.2


@dataclass(slots=True)
class Accepted:
    """A durable task. `task` is set if it existed before."""

    task_id: str
    result: pb.MutationResult
    spec: task_pb2.TaskSpec
    request_id: str
    asked: bool = False  # storage was asked for it: it may be there, whatever the answer is

    def task(self) -> task_pb2.Task:
        """Return the task as it stands."""
        result = self.result
        if result.HasField("task"):
            return result.task
        created = timestamp(wire.first_time_ms(result.events))
        return task_pb2.Task(
            id=self.task_id,
            request_id=self.request_id,
            spec=self.spec,
            state=result.state,
            attempt=result.attempt,
            last_sequence=result.last_sequence,
            create_time=created,
            start_time=created if result.claimed else None,
        )


class TaskEngine:
    """Everything that TaskService can ask for, free of gRPC."""

    def __init__(
        self,
        storage: Storage,
        hub: Hub,
        scheduler: Scheduler,
        attempts: Attempts,
        catalog: Catalog,
        news: News,
        starter: Starter,
        clock: Clock,
        *,
        admission: Admission,
        default_timeout_s: float,
        accept_timeout_s: float = 60.0,
    ) -> None:
        """A submit whose commit takes longer than `accept_timeout_s` is Unavailable, though it may still succeed."""
        self.storage = storage
        self.hub = hub
        self.catalog = catalog
        self._scheduler = scheduler
        self._attempts = attempts
        self._news = news
        self._starter = starter
        self._clock = clock
        self._admission = admission
        self._default_timeout_s = default_timeout_s
        self._accept_timeout_s = accept_timeout_s
        self._accepting: deque[tuple[float, Accepted, asyncio.Future[Accepted]]] = deque()  # by deadline
        self.draining = False
        self.at_drain: set[Callable[[], None]] = set()

    # -- accepting ----------------------------------------------------------------------------------------

    def accept(
        self,
        tenant: str,
        request_id: str,
        spec: task_pb2.TaskSpec,
        traceparent: str,
        *,
        subscribe: Callable[[str], Subscription] | None = None,
        retry_of: str = "",
        inherit_journal: bool = False,
    ) -> asyncio.Future[Accepted]:
        """Validate a task and queue its commit; the future is done after COMMIT.

        `subscribe` makes a subscription for the task's id; it hears the task from its first event. Raises
        ResourceExhausted if the tenant has to come back later, InvalidRequest with every field that is wrong.
        """
        self.check_open()
        gate = self._admission.check(tenant, spec.agent)
        self._validate(spec, request_id)
        mutation = pb.Mutation(tenant=tenant)
        create = mutation.create
        self._fill_create(create, spec, request_id, traceparent)
        create.retry_of, create.inherit_journal = retry_of, inherit_journal
        subscription = subscribe(create.task_id) if subscribe is not None else None
        done: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        accepted = Accepted(create.task_id, pb.MutationResult(), spec, request_id)
        self._accepting.append((self._clock.monotonic() + self._accept_timeout_s, accepted, done))
        create_it = partial(self._create, tenant, mutation, accepted, subscription, done)
        if gate is None:
            self._admission.enter(tenant, create_it)
        else:
            gate.add_done_callback(partial(self._let_in, tenant, create_it, subscription, done))
        return done

    def _let_in(
        self,
        tenant: str,
        create_it: Callable[[Entry], None],
        subscription: Subscription | None,
        done: asyncio.Future[Accepted],
        gate: "asyncio.Future[None]",
    ) -> None:
        error = Unavailable("the router is stopping") if gate.cancelled() else gate.exception()
        if error is None:
            self._admission.enter(tenant, create_it)
            return
        if subscription is not None:
            self.hub.remove(subscription)
        fail(done, error)

    def _create(
        self,
        tenant: str,
        mutation: pb.Mutation,
        accepted: Accepted,
        subscription: Subscription | None,
        done: asyncio.Future[Accepted],
        entry: Entry,
    ) -> None:
        create = mutation.create
        if done.done():  # it waited for its turn for so long that its caller was told, or is gone
            entry.failed()
            self._give_up(create, None, subscription)
            return
        accepted.asked = True
        link = self._offer_slot(create)
        entry.asked(waits=link is None and self._is_ready(create))
        try:
            pending = self.storage.commit_soon(mutation)
        except MeshError as error:
            entry.failed()
            self._give_up(create, link, subscription)
            fail(done, error)
            return
        pending.add_done_callback(partial(self._created, tenant, create, accepted, link, subscription, entry, done))

    def describe(self, spec: task_pb2.TaskSpec) -> pb.CreateTask:
        """Check a task, and return what it will be; raise InvalidRequest as `accept` does."""
        self._validate(spec, "")
        create = pb.CreateTask()
        self._fill_create(create, spec, "", "")
        return create

    def check_open(self) -> None:
        """Raise Unavailable once the router is draining: whoever watches goes on at another, or at the next."""
        if self.draining:
            raise Unavailable("the router is draining", reason="DRAINING", retry_after_s=0.2)

    def give_up_late(self) -> None:
        """Tell submits that waited too long for their commit that storage does not answer."""
        now = self._clock.monotonic()
        while self._accepting and (self._accepting[0][2].done() or self._accepting[0][0] < now):
            _, accepted, done = self._accepting.popleft()
            if done.done():
                continue
            if not accepted.asked and self._admission.is_moving(self._accept_timeout_s):
                fail(done, self._admission.overloaded())
            else:
                fail(done, Unavailable("storage does not answer", reason="STORAGE_UNAVAILABLE", retry_after_s=0.5))

    async def drain(self) -> None:
        """End every stream and take nothing new."""
        self.draining = True
        self.hub.doubt_all()
        for wake in self.at_drain:
            wake()

    def _validate(self, spec: task_pb2.TaskSpec, request_id: str) -> None:
        violations = violations_of(wire.facts_of(spec, self._clock.now_ms()))
        if len(request_id) > MAX_REQUEST_ID:
            violations.append(("request_id", f"must be at most {MAX_REQUEST_ID} characters"))
        bad = [number for number, artifact_id in enumerate(spec.artifact_ids) if not is_id(artifact_id)]
        violations.extend((f"spec.artifact_ids[{number}]", "is not an id") for number in bad[:_MAX_NAMED])
        violations.extend(wire.data_faults(spec))
        if violations:
            raise InvalidRequest("the task has fields that are wrong", violations=violations)
        self.catalog.check(spec)

    def _fill_create(self, create: pb.CreateTask, spec: task_pb2.TaskSpec, request_id: str, traceparent: str) -> None:
        body = spec.SerializeToString(deterministic=True)
        create.task_id = new_id()
        create.spec = body
        create.agent = spec.agent
        create.priority = spec.priority or DEFAULT_PRIORITY
        create.traceparent = traceparent
        if request_id:
            create.request_id = request_id
            create.request_hash = request_hash(body)
        if spec.HasField("timeout"):
            create.timeout.CopyFrom(spec.timeout)
        else:
            create.timeout.seconds = int(self._default_timeout_s)
        if spec.HasField("start_time"):
            create.ready_time.CopyFrom(spec.start_time)
        if spec.HasField("queue_timeout"):
            create.queue_timeout.CopyFrom(spec.queue_timeout)
        if spec.context_id:
            create.context_id = spec.context_id
        if spec.labels:
            create.labels.update(spec.labels)

    def _offer_slot(self, create: pb.CreateTask) -> RunnerLink | None:
        if not self._is_ready(create):
            return None
        link = self._scheduler.reserve(create.agent)
        if link is not None:
            link.claiming.add(create.task_id)
            create.claim.incarnation = link.incarnation
            create.claim.agent_version = link.agents.get(create.agent, "")
        return link

    def _is_ready(self, create: pb.CreateTask) -> bool:
        return to_ms(create.ready_time) <= self._clock.now_ms()

    def _give_up(self, create: pb.CreateTask, link: RunnerLink | None, subscription: Subscription | None) -> None:
        if link is not None:
            link.claiming.discard(create.task_id)
            self._scheduler.release(link, create.agent)
        if subscription is not None:
            self.hub.remove(subscription)

    def _created(
        self,
        tenant: str,
        create: pb.CreateTask,
        accepted: Accepted,
        link: RunnerLink | None,
        subscription: Subscription | None,
        entry: Entry,
        done: asyncio.Future[Accepted],
        future: "asyncio.Future[pb.MutationResult]",
    ) -> None:
        error = future.exception()
        if error is None and future.result().HasField("error"):
            error = from_status(future.result().error)
        if link is not None and isinstance(error, Unavailable):
            self._attempts.doubt(link)  # it may have been committed all the same
        if error is not None:
            entry.failed()
            self._give_up(create, link, subscription)
            fail(done, error)
            return
        result = accepted.result = future.result()
        entry.committed(waits=not (result.existed or result.claimed) and self._is_ready(create))
        if result.existed:
            self._give_up(create, link, subscription)
            accepted.task_id = result.task_id
        else:
            self.hub.publish(
                create.task_id, 0, 1, result.last_sequence, result.events, last=result.last_sequence, terminal=False
            )
            self._begin_created(tenant, create, accepted, link)
        if not done.done():
            done.set_result(accepted)

    def _begin_created(self, tenant: str, create: pb.CreateTask, accepted: Accepted, link: RunnerLink | None) -> None:
        result = accepted.result
        if link is not None:
            link.claiming.discard(create.task_id)
        if result.claimed and link is not None:
            self._starter.begin(
                link,
                tenant,
                task_id=create.task_id,
                attempt=result.attempt,
                spec=accepted.spec,
                failures=0,
                time_left_s=to_ms(create.timeout) / 1000,
                traceparent=create.traceparent,
                journal=create.retry_of and create.inherit_journal,
            )
            return
        if link is not None:
            self._scheduler.release(link, create.agent)
        if self._is_ready(create):
            self._scheduler.ready({create.agent})

    # -- steering -----------------------------------------------------------------------------------------

    async def cancel(self, tenant: str, task_id: str) -> task_pb2.Task:
        """Ask for a task to stop; return it as it stands."""
        result = await self.storage.commit(pb.Mutation(tenant=tenant, cancel=pb.CancelTask(task_id=task_id)))
        self._publish_own(result, 1)
        attempt = self._attempts.get(task_id)
        if attempt is not None and not result.first_sequence:
            self._attempts.stop(attempt, Stop.REASON_CANCELED)
        if result.parent_id:
            self._news.child_ended(tenant, task_id, result.parent_id)
        return result.task

    async def give_input(self, tenant: str, task_id: str, input_id: str, message: types_pb2.Message) -> task_pb2.Task:
        """Answer a question; return the task as it stands."""
        if not input_id:
            raise InvalidRequest("a field is wrong", violations=[("input_id", "is needed")])
        message.role = types_pb2.ROLE_USER
        message.task_id = task_id
        change = pb.GiveInput(task_id=task_id, input_id=input_id, message=message.SerializeToString())
        result = await self.storage.commit(pb.Mutation(tenant=tenant, input=change))
        self._publish_own(result, 2)
        attempt = self._attempts.get(task_id)
        if attempt is not None and not attempt.over:
            attempt.standing.asking = False
            delivery = runner_pb.DeliverInput(
                task_id=task_id, attempt=attempt.attempt, input_id=input_id, message=message
            )
            attempt.link.send(inputs=[delivery])
        else:
            self._scheduler.ready({result.task.spec.agent})
        return result.task

    async def retry(
        self, tenant: str, task_id: str, request_id: str, traceparent: str, *, inherit_journal: bool
    ) -> Accepted:
        """Submit an ended task anew."""
        old = await self.storage.get_task(tenant, task_id)
        if old.state not in TERMINAL:
            raise WrongState("the task has not ended yet", reason="TASK_NOT_ENDED")
        old.spec.ClearField("start_time")
        return await self.accept(
            tenant, request_id, old.spec, traceparent, retry_of=task_id, inherit_journal=inherit_journal
        )

    async def spawn(self, link: RunnerLink, spawn: runner_pb.SpawnChild) -> None:
        """Commit a child and tell its parent."""
        parent = self._attempts.get(spawn.task_id)
        if parent is None or parent.attempt != spawn.attempt:
            return
        update = runner_pb.ChildUpdate(task_id=spawn.task_id, attempt=spawn.attempt, step_key=spawn.step_key)
        tenant = parent.standing.tenant
        try:
            create = self.describe(spawn.spec)
            slot = self._offer_slot(create)
            change = pb.SpawnTask(
                parent_id=spawn.task_id, parent_attempt=spawn.attempt, step_key=spawn.step_key, child=create
            )
            try:
                result = await self.storage.commit(pb.Mutation(tenant=tenant, spawn=change))
            except BaseException:
                if slot is not None:
                    self._attempts.doubt(slot)
                self._give_up(create, slot, None)
                raise
        except MeshError as error:
            update.error.CopyFrom(to_status(error))
            link.send(children=[update])
            return
        self.hub.doubt(spawn.task_id)
        update.child.CopyFrom(result.task)
        link.send(children=[update])
        if result.existed:
            self._give_up(create, slot, None)
            return
        accepted = Accepted(create.task_id, result, spawn.spec, "")
        self._begin_created(tenant, create, accepted, slot)

    def _publish_own(self, result: pb.MutationResult, count: int) -> None:
        if result.first_sequence:
            self.hub.publish(
                result.task_id,
                result.events_attempt,
                result.first_sequence,
                count,
                result.events,
                last=result.last_sequence,
                terminal=result.state in TERMINAL,
            )
