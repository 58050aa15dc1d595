"""The task engine: accepts tasks, starts them, steers them."""

import asyncio
from collections.abc import Callable

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import InvalidRequest, MeshError, Unavailable, WrongState, to_status
from agentmesh.kit.wire import TERMINAL
from agentmesh_router.accepting import Accepted, Acceptor
from agentmesh_router.adapters.runner_link import RunnerLink
from agentmesh_router.attempts import Attempts
from agentmesh_router.catalog import Catalog
from agentmesh_router.drafts import Drafts
from agentmesh_router.hub import Hub, Subscription
from agentmesh_router.news import News
from agentmesh_router.ports import Storage
from agentmesh_router.scheduler import Scheduler

Stop = runner_pb.StopAttempt


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
        drafts: Drafts,
        acceptor: Acceptor,
    ) -> None:
        self.storage = storage
        self.hub = hub
        self.catalog = catalog
        self._scheduler = scheduler
        self._attempts = attempts
        self._news = news
        self._drafts = drafts
        self._acceptor = acceptor
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
    ) -> "asyncio.Future[Accepted]":
        """See Acceptor.accept; raises Unavailable once the router is draining."""
        self.check_open()
        return self._acceptor.accept(tenant, request_id, spec, traceparent, subscribe=subscribe)

    def describe(self, spec: task_pb2.TaskSpec, *, traceparent: str = "") -> pb.CreateTask:
        """Check a task, and return what it will be; raise InvalidRequest as `accept` does."""
        create = pb.CreateTask()
        self._drafts.write(create, spec, traceparent=traceparent)
        return create

    def check_open(self) -> None:
        """Raise Unavailable once the router is draining: whoever watches goes on at another, or at the next."""
        if self.draining:
            raise Unavailable("the router is draining", reason="DRAINING", retry_after_s=0.2)

    async def drain(self) -> None:
        """End every stream and take nothing new."""
        self.draining = True
        self.hub.doubt_all()
        for wake in self.at_drain:
            wake()

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
        self, tenant: str, old: task_pb2.Task, request_id: str, traceparent: str, *, inherit_journal: bool
    ) -> Accepted:
        """Submit an ended task anew."""
        if old.state not in TERMINAL:
            raise WrongState("the task has not ended yet", reason="TASK_NOT_ENDED")
        old.spec.ClearField("start_time")
        self.check_open()
        return await self._acceptor.accept(
            tenant, request_id, old.spec, traceparent, retry_of=old.id, inherit_journal=inherit_journal
        )

    async def spawn(self, link: RunnerLink, spawn: runner_pb.SpawnChild) -> None:
        """Commit a child and tell its parent."""
        parent = self._attempts.get(spawn.task_id)
        if parent is None or parent.attempt != spawn.attempt:
            return
        update = runner_pb.ChildUpdate(task_id=spawn.task_id, attempt=spawn.attempt, step_key=spawn.step_key)
        tenant = parent.standing.tenant
        try:
            create = self.describe(spawn.spec, traceparent=spawn.traceparent)
            slot = self._acceptor.offer_slot(create)
            change = pb.SpawnTask(
                parent_id=spawn.task_id, parent_attempt=spawn.attempt, step_key=spawn.step_key, child=create
            )
            try:
                result = await self.storage.commit(pb.Mutation(tenant=tenant, spawn=change))
            except BaseException:
                if slot is not None:
                    self._attempts.doubt(slot)
                self._acceptor.give_back(create, slot)
                raise
        except MeshError as error:
            update.error.CopyFrom(to_status(error))
            link.send(children=[update])
            return
        self.hub.doubt(spawn.task_id)
        update.child.CopyFrom(result.task)
        link.send(children=[update])
        if result.existed:
            self._acceptor.give_back(create, slot)
            return
        self._acceptor.begin(tenant, create, Accepted(create.task_id, result, spawn.spec, ""), slot)

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
