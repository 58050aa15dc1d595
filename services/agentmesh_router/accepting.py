"""How a task is accepted: validated, admitted, given a slot if one is free, committed, and started."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit.clock import Clock, timestamp, to_ms
from agentmesh.kit.errors import MeshError, Unavailable, from_status
from agentmesh_router import wire
from agentmesh_router.adapters.runner_link import RunnerLink
from agentmesh_router.admission import Admission, Entry
from agentmesh_router.attempts import Attempts
from agentmesh_router.background import fail
from agentmesh_router.drafts import Drafts
from agentmesh_router.hub import Hub, Subscription
from agentmesh_router.ports import Storage
from agentmesh_router.scheduler import Scheduler
from agentmesh_router.starting import Starter


@dataclass(slots=True)
class Accepted:
    """A durable task. `task` is set if it existed before."""

    task_id: str
    result: pb.MutationResult
    spec: task_pb2.TaskSpec
    request_id: str

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


@dataclass(slots=True)
class _Submit:
    """A task on its way to its commit, and who waits for it."""

    tenant: str
    mutation: pb.Mutation
    accepted: Accepted
    subscription: Subscription | None
    until: float
    done: "asyncio.Future[Accepted]"
    entry: Entry | None = None
    link: RunnerLink | None = None  # where a slot is kept for it
    asked: bool = False  # storage was asked for it: it may be there, whatever the answer is

    @property
    def create(self) -> pb.CreateTask:
        return self.mutation.create


class Acceptor:
    """Takes submits to their commit, in the order of admission's turns."""

    def __init__(
        self,
        storage: Storage,
        hub: Hub,
        scheduler: Scheduler,
        attempts: Attempts,
        starter: Starter,
        drafts: Drafts,
        clock: Clock,
        *,
        admission: Admission,
        timeout_s: float = 60.0,
    ) -> None:
        """A submit whose commit takes longer than `timeout_s` is Unavailable, though it may still succeed."""
        self._storage = storage
        self._hub = hub
        self._scheduler = scheduler
        self._attempts = attempts
        self._starter = starter
        self._drafts = drafts
        self._clock = clock
        self._admission = admission
        self._timeout_s = timeout_s
        self._submits: deque[_Submit] = deque()  # by when they are late

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
    ) -> "asyncio.Future[Accepted]":
        """Validate a task and queue its commit; the future is done after COMMIT.

        `subscribe` makes a subscription for the task's id; it hears the task from its first event. Raises
        ResourceExhausted if the tenant has to come back later, InvalidRequest with every field that is wrong.
        """
        gate = self._admission.check(tenant, spec.agent)
        mutation = pb.Mutation(tenant=tenant)
        create = mutation.create
        self._drafts.write(create, spec, request_id=request_id, traceparent=traceparent)
        create.retry_of, create.inherit_journal = retry_of, inherit_journal
        submit = _Submit(
            tenant,
            mutation,
            Accepted(create.task_id, pb.MutationResult(), spec, request_id),
            subscribe(create.task_id) if subscribe is not None else None,
            self._clock.monotonic() + self._timeout_s,
            asyncio.get_running_loop().create_future(),
        )
        self._submits.append(submit)
        if gate is None:
            self._admission.enter(tenant, partial(self._commit, submit))
        else:
            gate.add_done_callback(partial(self._let_in, submit))
        return submit.done

    def give_up_late(self) -> None:
        """Tell submits that waited too long for their commit that storage does not answer."""
        now = self._clock.monotonic()
        while self._submits and (self._submits[0].done.done() or self._submits[0].until < now):
            submit = self._submits.popleft()
            if submit.done.done():
                continue
            if not submit.asked and self._admission.is_moving(self._timeout_s):
                fail(submit.done, self._admission.overloaded())
            else:
                late = Unavailable("storage does not answer", reason="STORAGE_UNAVAILABLE", retry_after_s=0.5)
                fail(submit.done, late)

    # -- slots, for children too ------------------------------------------------------------------------------

    def offer_slot(self, create: pb.CreateTask) -> RunnerLink | None:
        """Keep a slot for a task that may start now, if one is free: its commit claims it."""
        if not self._is_ready(create):
            return None
        link = self._scheduler.reserve(create.agent)
        if link is not None:
            link.claiming.add(create.task_id)
            create.claim.incarnation = link.incarnation
            create.claim.agent_version = link.agents.get(create.agent, "")
        return link

    def give_back(self, create: pb.CreateTask, link: RunnerLink | None) -> None:
        """Let go of the slot of a task that does not start."""
        if link is not None:
            link.claiming.discard(create.task_id)
            self._scheduler.release(link, create.agent)

    def begin(self, tenant: str, create: pb.CreateTask, accepted: Accepted, link: RunnerLink | None) -> None:
        """Start a committed task on the slot that was kept for it, or say that it waits."""
        result = accepted.result
        if result.claimed and link is not None:
            link.claiming.discard(create.task_id)
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
        self.give_back(create, link)
        if self._is_ready(create):
            self._scheduler.ready({create.agent})

    # -- on the way to the commit -----------------------------------------------------------------------------

    def _let_in(self, submit: _Submit, gate: "asyncio.Future[None]") -> None:
        error = Unavailable("the router is stopping") if gate.cancelled() else gate.exception()
        if error is None:
            self._admission.enter(submit.tenant, partial(self._commit, submit))
            return
        self._drop(submit)
        fail(submit.done, error)

    def _commit(self, submit: _Submit, entry: Entry) -> None:
        submit.entry = entry
        if submit.done.done():  # it waited for its turn for so long that its caller was told, or is gone
            self._drop(submit)
            return
        submit.asked = True
        submit.link = self.offer_slot(submit.create)
        entry.asked(waits=submit.link is None and self._is_ready(submit.create))
        try:
            pending = self._storage.commit_soon(submit.mutation)
        except MeshError as error:
            self._drop(submit)
            fail(submit.done, error)
            return
        pending.add_done_callback(partial(self._committed, submit, entry))

    def _committed(self, submit: _Submit, entry: Entry, future: "asyncio.Future[pb.MutationResult]") -> None:
        error = future.exception()
        if error is None and future.result().HasField("error"):
            error = from_status(future.result().error)
        if error is not None:
            if submit.link is not None and isinstance(error, Unavailable):
                self._attempts.doubt(submit.link)  # it may have been committed all the same
            self._drop(submit)
            fail(submit.done, error)
            return
        create, accepted = submit.create, submit.accepted
        result = accepted.result = future.result()
        entry.committed(waits=not (result.existed or result.claimed) and self._is_ready(create))
        if result.existed:
            self.give_back(create, submit.link)
            if submit.subscription is not None:
                self._hub.remove(submit.subscription)
            accepted.task_id = result.task_id
        else:
            self._hub.publish(
                create.task_id, 0, 1, result.last_sequence, result.events, last=result.last_sequence, terminal=False
            )
            self.begin(submit.tenant, create, accepted, submit.link)
        if not submit.done.done():
            submit.done.set_result(accepted)

    def _drop(self, submit: _Submit) -> None:
        """Let go of what was kept for a task that there is not, as far as is known here."""
        if submit.entry is not None:
            submit.entry.failed()
        self.give_back(submit.create, submit.link)
        if submit.subscription is not None:
            self._hub.remove(submit.subscription)

    def _is_ready(self, create: pb.CreateTask) -> bool:
        return to_ms(create.ready_time) <= self._clock.now_ms()
