"""The handlers of RunnerService."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2
from agentmesh.kit.auth import Keyring, TaskClaims
from agentmesh.kit.clock import timestamp
from agentmesh.kit.errors import InvalidRequest
from agentmesh.kit.ids import new_id
from agentmesh.kit.names import DEFAULT_TENANT
from agentmesh.kit.rpc_server import Call
from agentmesh_runner.execution import FINAL_STATES
from agentmesh_runner.service import RunnerService
from agentmesh_runner.session import Session

_DEBUG_TOKEN_S = 3600.0


class RunnerApi:
    """Answers routers, and people who debug."""

    def __init__(self, service: RunnerService, keyring: Keyring) -> None:
        self._service = service
        self._keyring = keyring

    async def execute_tasks(
        self, requests: AsyncIterator[pb.ExecuteTasksRequest], call: Call
    ) -> AsyncIterator[pb.ExecuteTasksResponse]:
        """Speak with one router until it goes."""
        first = await anext(requests, None)
        if first is None or not first.HasField("hello"):
            raise InvalidRequest("the first message must be a hello", reason="HELLO_MISSING")
        session = self._service.connect(first.hello)
        reader = asyncio.create_task(self._read(requests, session))
        try:
            async for message in session.messages():
                yield message
        finally:
            reader.cancel()
            self._service.disconnect(session)
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def execute_task(self, request: pb.ExecuteTaskRequest, call: Call) -> AsyncIterator[pb.ExecuteTaskResponse]:
        """Run one task here and now; nothing is stored."""
        task_id = new_id()
        claims = TaskClaims(DEFAULT_TENANT, task_id, 1, time.time() + _DEBUG_TOKEN_S)
        assignment = pb.Assignment(
            task_id=task_id,
            attempt=1,
            tenant=DEFAULT_TENANT,
            spec=request.spec,
            token=self._keyring.sign(claims),
            traceparent=call.traceparent,
        )
        woken = asyncio.Event()
        running = self._service.make(assignment, lambda _: woken.set())
        running.task = asyncio.create_task(self._service.run(running))
        sequence = 1
        try:
            while True:
                batch = running.log.take(64 * 1024)
                if batch is None:
                    woken.clear()
                    await woken.wait()
                    continue
                events = list(events_pb2.EventList.FromString(batch.events).events)
                running.log.ack(batch.first_offset + len(events))
                if batch.HasField("outcome"):
                    events.append(_final(batch.outcome))
                chunk = events_pb2.EventChunk(task_id=task_id, attempt=1, first_sequence=sequence, events=events)
                sequence += len(events)
                yield pb.ExecuteTaskResponse(chunks=[chunk])
                if batch.HasField("outcome"):
                    return
        finally:
            running.stop(pb.StopAttempt.REASON_CANCELED)

    async def list_agents(self, request: pb.ListAgentsRequest, call: Call) -> pb.ListAgentsResponse:
        """Return the agents that are served here."""
        return pb.ListAgentsResponse(agents=self._service.agents())

    async def _read(self, requests: AsyncIterator[pb.ExecuteTasksRequest], session: Session) -> None:
        try:
            async for request in requests:
                self._service.hear(session, request)
        finally:
            session.close()


def _final(outcome: pb.Outcome) -> events_pb2.TaskEvent:
    kind = outcome.WhichOneof("kind") or "failed"
    changed = events_pb2.StateChanged(state=FINAL_STATES.get(kind, events_pb2.TASK_STATE_SUBMITTED))
    if kind == "completed":
        changed.result.CopyFrom(outcome.completed)
    elif kind in ("failed", "rejected"):
        changed.error.CopyFrom(getattr(outcome, kind))
    return events_pb2.TaskEvent(time=timestamp(time.time_ns() // 1_000_000), state_changed=changed)
