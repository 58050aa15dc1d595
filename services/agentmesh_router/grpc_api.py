"""The handlers of TaskService."""

import asyncio
from collections.abc import AsyncIterator

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.kit import telemetry, trace_context
from agentmesh.kit.errors import InvalidRequest, MeshError, NotFound
from agentmesh.kit.ids import is_id
from agentmesh.kit.rpc_server import Call
from agentmesh_router.hub import Subscription
from agentmesh_router.run_tasks import RunTasksStream
from agentmesh_router.scheduler import Scheduler
from agentmesh_router.service import TaskEngine

log = telemetry.logger(__name__)

_RETRY_READ_S = 0.2
_MAX_PAGE = 1000


class TaskApi:
    """Answers clients."""

    def __init__(self, engine: TaskEngine, scheduler: Scheduler) -> None:
        self._engine = engine
        self._scheduler = scheduler

    async def submit_task(self, request: pb.SubmitTaskRequest, call: Call) -> pb.SubmitTaskResponse:
        """Accept one task."""
        accepted = await self._engine.accept(call.tenant, request.request_id, request.spec, call.traceparent)
        return pb.SubmitTaskResponse(task=accepted.task())

    async def stream_task(self, request: pb.StreamTaskRequest, call: Call) -> AsyncIterator[bytes]:
        """Accept one task and stream its events."""
        woken = asyncio.Event()
        made: list[Subscription] = []

        def subscribe(task_id: str) -> Subscription:
            subscription = Subscription(call.tenant, task_id, 0, lambda _: woken.set())
            subscription.start_live()
            self._engine.hub.add(subscription)
            made.append(subscription)
            return subscription

        accepting = self._engine.accept(
            call.tenant, request.request_id, request.spec, call.traceparent, subscribe=subscribe
        )
        subscription = made[0]
        try:
            accepted = await accepting
            if accepted.result.existed:
                subscription = Subscription(call.tenant, accepted.task_id, 0, lambda _: woken.set())
                self._engine.hub.add(subscription)
            async for data in self._follow(subscription, woken):
                yield data
        finally:
            self._engine.hub.remove(subscription)
            if request.cancel_on_disconnect and not subscription.done and not self._engine.draining:
                await asyncio.shield(self._cancel_quietly(call.tenant, subscription.task_id))

    async def run_tasks(self, requests: AsyncIterator[pb.RunTasksRequest], call: Call) -> AsyncIterator[bytes]:
        """Carry many tasks over one stream."""
        async with RunTasksStream(self._engine, call) as stream:
            async for data in stream.converse(requests):
                yield data

    async def watch_task(self, request: pb.WatchTaskRequest, call: Call) -> AsyncIterator[bytes]:
        """Replay a task's events, then follow it."""
        task = await self._engine.storage.get_task(call.tenant, known_id(request.task_id))
        if not 0 <= request.after_sequence <= task.last_sequence:
            raise InvalidRequest(
                "a field is wrong",
                violations=[("after_sequence", f"must be from 0 to the last sequence, {task.last_sequence}")],
            )
        woken = asyncio.Event()
        subscription = Subscription(call.tenant, request.task_id, request.after_sequence, lambda _: woken.set())
        self._engine.hub.add(subscription)
        try:
            async for data in self._follow(subscription, woken):
                yield data
        finally:
            self._engine.hub.remove(subscription)

    async def get_task(self, request: pb.GetTaskRequest, call: Call) -> pb.GetTaskResponse:
        """Return a task."""
        return pb.GetTaskResponse(task=await self._engine.storage.get_task(call.tenant, known_id(request.task_id)))

    async def list_tasks(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        """Return a page of tasks."""
        check_page_size(request.page_size)
        return await self._engine.storage.list_tasks(call.tenant, request)

    async def cancel_task(self, request: pb.CancelTaskRequest, call: Call) -> pb.CancelTaskResponse:
        """Ask for a task to stop."""
        return pb.CancelTaskResponse(task=await self._engine.cancel(call.tenant, known_id(request.task_id)))

    async def send_task_input(self, request: pb.SendTaskInputRequest, call: Call) -> pb.SendTaskInputResponse:
        """Answer a question of a task."""
        task = await self._engine.give_input(call.tenant, known_id(request.task_id), request.input_id, request.message)
        return pb.SendTaskInputResponse(task=task)

    async def retry_task(self, request: pb.RetryTaskRequest, call: Call) -> pb.RetryTaskResponse:
        """Submit an ended task anew."""
        old, traceparent = await self._engine.storage.get_task_and_trace(call.tenant, known_id(request.task_id))
        if traceparent:
            call.link(trace_context.child_context(traceparent, trace_context.attempt_span_id(old.id, old.attempt)))
        accepted = await self._engine.retry(
            call.tenant,
            old,
            request.request_id,
            call.traceparent,
            inherit_journal=request.inherit_journal,
        )
        task = accepted.task()
        task.retry_of = request.task_id
        return pb.RetryTaskResponse(task=task)

    async def list_agents(self, request: pb.ListAgentsRequest, call: Call) -> pb.ListAgentsResponse:
        """Return the agents that are known."""
        check_page_size(request.page_size)
        agents = [a for a in self._engine.catalog.list(self._scheduler.serving()) if a.name > request.page_token]
        size = request.page_size or _MAX_PAGE
        token = agents[size - 1].name if len(agents) > size else ""
        return pb.ListAgentsResponse(agents=agents[:size], next_page_token=token)

    async def get_agent(self, request: pb.GetAgentRequest, call: Call) -> pb.GetAgentResponse:
        """Return one agent."""
        return pb.GetAgentResponse(agent=self._engine.catalog.get(request.agent, self._scheduler.serving()))

    async def _follow(self, subscription: Subscription, woken: asyncio.Event) -> AsyncIterator[bytes]:
        while not subscription.done:
            self._engine.check_open()
            data = subscription.take()
            if data:
                yield data
            elif subscription.behind:
                try:
                    await subscription.catch_up(self._engine.storage.read_log)
                except NotFound:
                    raise
                except MeshError as error:
                    log.info("log_not_read", task_id=subscription.task_id, reason=error.reason)
                    await asyncio.sleep(_RETRY_READ_S)
            else:
                woken.clear()
                await woken.wait()

    async def _cancel_quietly(self, tenant: str, task_id: str) -> None:
        try:
            await self._engine.cancel(tenant, task_id)
        except MeshError as error:
            log.info("cancel_on_disconnect_failed", task_id=task_id, reason=error.reason)


def known_id(task_id: str) -> str:
    """Return an id that can exist; any other text is nobody's task."""
    if not is_id(task_id):
        raise NotFound("there is no such task", reason="TASK_NOT_FOUND")
    return task_id


def check_page_size(size: int) -> None:
    """Raise InvalidRequest for a size that no page has."""
    if not 0 <= size <= _MAX_PAGE:
        raise InvalidRequest("a field is wrong", violations=[("page_size", f"must be from 0 to {_MAX_PAGE}")])
