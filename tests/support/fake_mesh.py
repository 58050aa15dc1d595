"""A TaskService that a test scripts: a log for each task, and faults at chosen places of the wire."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.auth import PUBLIC, Keyring
from agentmesh.kit.errors import InvalidRequest, MeshError, NotFound, Unavailable, to_status
from agentmesh.kit.ids import new_id
from agentmesh.kit.rpc_server import Call
from tests.support.serving import serving

Event = events_pb2.TaskEvent


def state(value: events_pb2.TaskState.ValueType, text: str = "") -> Event:
    """Write a state_changed event."""
    changed = events_pb2.StateChanged(state=value)
    if value == events_pb2.TASK_STATE_COMPLETED:
        changed.result.text = text
    return Event(state_changed=changed)


def message(text: str) -> Event:
    """Write a message event."""
    return Event(message=types_pb2.Message(role=types_pb2.ROLE_AGENT, parts=[types_pb2.Part(text=text)]))


def log_of(spec: task_pb2.TaskSpec) -> list[Event]:
    """Write the log of a task that says its prompt `count` times."""
    count = int(spec.parameters["count"]) if "count" in spec.parameters else 3
    started = Event(attempt_started=events_pb2.AttemptStarted(attempt=1, supersedes_after_sequence=1))
    said = [message(f"{spec.prompt} {number}") for number in range(count)]
    end = state(events_pb2.TASK_STATE_COMPLETED, spec.prompt)
    return [state(events_pb2.TASK_STATE_SUBMITTED), started, *said, end]


@dataclass
class FakeMesh:
    """Serves tasks that are complete as soon as they are submitted.

    `break_after` are the numbers of events after which one stream call after the other is cut with UNAVAILABLE
    (a stream that isn't named runs to its end); `overlap` is how many events a watch repeats; with `stall`, a
    task ends only when it is canceled.
    """

    break_after: list[int] = field(default_factory=list)
    refuse_first: list[MeshError] = field(default_factory=list)
    overlap: int = 0
    lose_acceptance: int = 0
    logs: dict[str, list[Event]] = field(default_factory=dict)
    by_request: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    watched_after: list[int] = field(default_factory=list)
    canceled: list[str] = field(default_factory=list)
    seen_metadata: list[str] = field(default_factory=list)
    held: asyncio.Event | None = None
    stall: bool = False
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def accept(self, request_id: str, spec: task_pb2.TaskSpec) -> str:
        """Accept a task once for each request_id."""
        if spec.agent == "unknown":
            raise InvalidRequest("there is no such agent", violations=[("spec.agent", "is not known")])
        known = self.by_request.get(request_id)
        if known is not None:
            return known
        task_id = new_id()
        self.logs[task_id] = log_of(spec)
        self.by_request[request_id] = task_id
        return task_id

    async def submit_task(self, request: pb.SubmitTaskRequest, call: Call) -> pb.SubmitTaskResponse:
        self._enter("SubmitTask", call)
        task_id = self.accept(request.request_id, request.spec)
        return pb.SubmitTaskResponse(task=task_pb2.Task(id=task_id, spec=request.spec))

    async def stream_task(self, request: pb.StreamTaskRequest, call: Call) -> AsyncIterator[pb.StreamTaskResponse]:
        task_id = self.accept(request.request_id, request.spec)
        self._enter("StreamTask", call)
        async for chunk in self._play(task_id, 0):
            yield pb.StreamTaskResponse(chunks=[chunk])

    async def watch_task(self, request: pb.WatchTaskRequest, call: Call) -> AsyncIterator[pb.WatchTaskResponse]:
        self._enter("WatchTask", call)
        if request.task_id not in self.logs:
            raise NotFound("there is no such task")
        self.watched_after.append(request.after_sequence)
        async for chunk in self._play(request.task_id, max(0, request.after_sequence - self.overlap)):
            yield pb.WatchTaskResponse(chunks=[chunk])

    async def run_tasks(
        self, requests: AsyncIterator[pb.RunTasksRequest], call: Call
    ) -> AsyncIterator[pb.RunTasksResponse]:
        self._enter("RunTasks", call)
        limit = self.break_after.pop(0) if self.break_after else -1
        sent = 0
        async for request in requests:
            response = pb.RunTasksResponse()
            todo: list[tuple[str, int]] = []
            for submit in request.submits:
                self.calls["submit"] += 1
                try:
                    task_id = self.accept(submit.request_id, submit.spec)
                    if self.refuse_first:
                        raise self.refuse_first.pop(0)
                except MeshError as error:
                    response.refused.add(request_id=submit.request_id, error=to_status(error))
                    continue
                response.accepted.add(request_id=submit.request_id, task_id=task_id)
                todo.append((task_id, 0))
            if self.lose_acceptance and todo:
                self.lose_acceptance -= 1
                raise Unavailable("cut before the answer")
            self.calls["unwatch"] += len(request.unwatches)
            for watch in request.watches:
                self.watched_after.append(watch.after_sequence)
                todo.append((watch.task_id, max(0, watch.after_sequence - self.overlap)))
            yield response
            if self.held is not None:
                await self.held.wait()
            for task_id, after in todo:
                async for chunk in self._play(task_id, after, cut=False):
                    if sent == limit:
                        raise Unavailable("cut")
                    sent += 1
                    yield pb.RunTasksResponse(chunks=[chunk])

    async def get_task(self, request: pb.GetTaskRequest, call: Call) -> pb.GetTaskResponse:
        self._enter("GetTask", call)
        if request.task_id not in self.logs:
            raise NotFound("there is no such task")
        return pb.GetTaskResponse(task=task_pb2.Task(id=request.task_id))

    async def list_tasks(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        self._enter("ListTasks", call)
        return pb.ListTasksResponse(tasks=[task_pb2.Task(id=task_id) for task_id in self.logs])

    async def cancel_task(self, request: pb.CancelTaskRequest, call: Call) -> pb.CancelTaskResponse:
        self._enter("CancelTask", call)
        self.canceled.append(request.task_id)
        self.logs[request.task_id][-1] = state(events_pb2.TASK_STATE_CANCELED)
        self.released.set()
        return pb.CancelTaskResponse(task=task_pb2.Task(id=request.task_id))

    async def send_task_input(self, request: pb.SendTaskInputRequest, call: Call) -> pb.SendTaskInputResponse:
        self._enter("SendTaskInput", call)
        return pb.SendTaskInputResponse(task=task_pb2.Task(id=request.task_id))

    async def retry_task(self, request: pb.RetryTaskRequest, call: Call) -> pb.RetryTaskResponse:
        self._enter("RetryTask", call)
        return pb.RetryTaskResponse(task=task_pb2.Task(id=new_id(), retry_of=request.task_id))

    async def list_agents(self, request: pb.ListAgentsRequest, call: Call) -> pb.ListAgentsResponse:
        """Return two pages."""
        self._enter("ListAgents", call)
        if not request.page_token:
            first = task_pb2.Agent(name="echo", version="1", description="Says it back.", serving=True)
            return pb.ListAgentsResponse(agents=[first], next_page_token="echo")
        return pb.ListAgentsResponse(agents=[task_pb2.Agent(name="other", version="2")])

    async def get_agent(self, request: pb.GetAgentRequest, call: Call) -> pb.GetAgentResponse:
        self._enter("GetAgent", call)
        if request.agent != "echo":
            raise NotFound("there is no such agent")
        return pb.GetAgentResponse(agent=task_pb2.Agent(name="echo", version="1"))

    def _enter(self, method: str, call: Call) -> None:
        self.calls[method] += 1
        metadata = dict(call.context.invocation_metadata() or ())
        self.seen_metadata.append(str(metadata.get("authorization", "")))
        if self.refuse_first and method != "RunTasks":
            raise self.refuse_first.pop(0)

    async def _play(self, task_id: str, after: int, *, cut: bool = True) -> AsyncIterator[events_pb2.EventChunk]:
        limit = self.break_after.pop(0) if cut and self.break_after else -1
        events = self.logs[task_id][after:]
        for number, event in enumerate(events):
            if self.stall and number == len(events) - 1:
                await self.released.wait()
                event = self.logs[task_id][-1]
            if number == limit:
                raise Unavailable("cut")
            yield events_pb2.EventChunk(task_id=task_id, attempt=1, first_sequence=after + number + 1, events=[event])


@asynccontextmanager
async def mesh_at(mesh: FakeMesh) -> AsyncIterator[str]:
    """Serve a fake mesh and yield its address."""
    service = pb.DESCRIPTOR.services_by_name["TaskService"]
    async with serving([(service, mesh, PUBLIC)], keyring=Keyring("for tests")) as address:
        yield address


def sequences(events: Sequence[tuple[str, int, int, Event]]) -> list[int]:
    """Return the sequences of events."""
    return [event[1] for event in events]
