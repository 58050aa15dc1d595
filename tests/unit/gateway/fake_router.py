"""The router's two services in memory, for tests of the gateway: it keeps what it was asked and answers from it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agentmesh.api.artifact.v1 import artifact_service_pb2 as artifact_pb
from agentmesh.api.task.v1 import events_pb2, task_pb2, task_service_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.auth import PUBLIC
from agentmesh.kit.errors import AlreadyExists, MeshError, NotFound
from agentmesh.kit.rpc_server import Call

COMPLETED = events_pb2.TaskEvent(state_changed=events_pb2.StateChanged(state=events_pb2.TASK_STATE_COMPLETED))
SUBMITTED = events_pb2.TaskEvent(state_changed=events_pb2.StateChanged(state=events_pb2.TASK_STATE_SUBMITTED))


def text(said: str) -> events_pb2.TaskEvent:
    """Return a text delta."""
    return events_pb2.TaskEvent(text_delta=events_pb2.TextDelta(text=said))


@dataclass
class Log:
    """A task's events, and who waits for more of them."""

    task_id: str
    events: list[events_pb2.TaskEvent] = field(default_factory=lambda: [SUBMITTED])
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, *events: events_pb2.TaskEvent) -> None:
        """Append events and wake the watchers."""
        self.events += events
        self.grown.set()

    @property
    def ended(self) -> bool:
        """Whether the last event is terminal."""
        return self.events[-1] == COMPLETED


class FakeTasks:
    """TaskService over logs in memory. `refuse` is raised by every call while it is set."""

    def __init__(self) -> None:
        self.logs: dict[str, Log] = {}
        self.by_request: dict[str, tuple[task_pb2.TaskSpec, str]] = {}
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.remaining_s: list[float | None] = []
        self.refuse: MeshError | None = None
        self.delay_s = 0.0  # or until `go_on` is set
        self.go_on = asyncio.Event()
        self.watching = 0
        self.cut_after: list[int] = []  # each stream ends after so many events, until the list is used up

    def log(self, task_id: str) -> Log:
        """Return a task's log; raise NotFound."""
        if task_id not in self.logs:
            raise NotFound("there is no such task", reason="TASK_NOT_FOUND")
        return self.logs[task_id]

    async def submit_task(self, request: Any, call: Call) -> Any:
        await self._enter(request, call)
        task_id = self._accept(request)
        return task_service_pb2.SubmitTaskResponse(task=self._task(task_id, request.spec))

    async def stream_task(self, request: Any, call: Call) -> AsyncIterator[Any]:
        await self._enter(request, call)
        async for chunk in self._follow(self._accept(request), 0):
            yield task_service_pb2.StreamTaskResponse(chunks=[chunk])

    async def watch_task(self, request: Any, call: Call) -> AsyncIterator[Any]:
        await self._enter(request, call)
        self.log(request.task_id)
        async for chunk in self._follow(request.task_id, request.after_sequence):
            yield task_service_pb2.WatchTaskResponse(chunks=[chunk])

    async def run_tasks(self, requests: Any, call: Call) -> AsyncIterator[Any]:
        yield task_service_pb2.RunTasksResponse()

    async def get_task(self, request: Any, call: Call) -> Any:
        await self._enter(request, call)
        self.log(request.task_id)
        return task_service_pb2.GetTaskResponse(task=self._task(request.task_id, task_pb2.TaskSpec(agent="echo")))

    async def list_tasks(self, request: Any, call: Call) -> Any:
        await self._enter(request, call)
        return task_service_pb2.ListTasksResponse(next_page_token="more")

    async def cancel_task(self, request: Any, call: Call) -> Any:
        await self._enter(request, call)
        return task_service_pb2.CancelTaskResponse(task=task_pb2.Task(id=request.task_id))

    async def send_task_input(self, request: Any, call: Call) -> Any:
        await self._enter(request, call)
        return task_service_pb2.SendTaskInputResponse()

    async def retry_task(self, request: Any, call: Call) -> Any:
        await self._enter(request, call)
        return task_service_pb2.RetryTaskResponse()

    async def list_agents(self, request: Any, call: Call) -> Any:
        await self._enter(request, call)
        return task_service_pb2.ListAgentsResponse(agents=[task_pb2.Agent(name="echo")])

    async def get_agent(self, request: Any, call: Call) -> Any:
        await self._enter(request, call)
        return task_service_pb2.GetAgentResponse(agent=task_pb2.Agent(name=request.agent))

    async def _enter(self, request: Any, call: Call) -> None:
        self.requests.append(request)
        self.metadata.append({k: v for k, v in call.context.invocation_metadata() if isinstance(v, str)})
        self.remaining_s.append(call.context.time_remaining())
        if self.delay_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.go_on.wait(), self.delay_s)
        if self.refuse is not None:
            raise self.refuse

    def _accept(self, request: Any) -> str:
        known = self.by_request.get(request.request_id)
        if known is not None:
            if known[0] != request.spec:
                raise AlreadyExists("the request id is taken", reason="REQUEST_ID_TAKEN")
            return known[1]
        task_id = f"task-{len(self.by_request) + 1}"
        self.by_request[request.request_id or task_id] = (request.spec, task_id)
        self.logs.setdefault(task_id, Log(task_id))
        return task_id

    def _task(self, task_id: str, spec: task_pb2.TaskSpec) -> task_pb2.Task:
        state = events_pb2.TASK_STATE_COMPLETED if self.log(task_id).ended else events_pb2.TASK_STATE_SUBMITTED
        return task_pb2.Task(id=task_id, spec=spec, state=state, last_sequence=len(self.log(task_id).events))

    async def _follow(self, task_id: str, after: int) -> AsyncIterator[events_pb2.EventChunk]:
        log, sent = self.log(task_id), 0
        limit = self.cut_after.pop(0) if self.cut_after else None
        self.watching += 1
        try:
            while True:
                for sequence in range(after + 1, len(log.events) + 1):
                    if sent == limit:
                        return
                    yield events_pb2.EventChunk(
                        task_id=task_id, attempt=1, first_sequence=sequence, events=[log.events[sequence - 1]]
                    )
                    sent, after = sent + 1, sequence
                if after < len(log.events):
                    continue  # more was said while the last one was sent
                if sent == limit or log.ended:
                    return
                log.grown.clear()
                await log.grown.wait()
        finally:
            self.watching -= 1


class FakeArtifacts:
    """ArtifactService over bytes in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[types_pb2.Artifact, bytes]] = {}
        self.piece_sizes: list[int] = []
        self.max_bytes = 64 * 1024 * 1024
        self.reading = 0
        self.cut_read_after: int | None = None

    def keep(self, name: str, media_type: str, content: bytes) -> str:
        """Keep bytes under a new id."""
        artifact_id = f"artifact-{len(self.kept) + 1}"
        described = types_pb2.Artifact(
            artifact_id=artifact_id,
            name=name,
            media_type=media_type,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        self.kept[artifact_id] = (described, content)
        return artifact_id

    async def upload_artifact(self, request: Any, call: Call) -> Any:
        kept = self.kept[self.keep(request.name, request.media_type, request.content)]
        return artifact_pb.UploadArtifactResponse(artifact=kept[0])

    async def create_artifact(self, requests: AsyncIterator[Any], call: Call) -> Any:
        head, content = None, bytearray()
        async for request in requests:
            head = head or request
            content += request.content
            self.piece_sizes.append(len(request.content))
            if len(content) > self.max_bytes:
                raise MeshError("too large")
        assert head is not None
        # The requests of a canceled call end like those of a whole one; the cancellation comes a moment later.
        await asyncio.sleep(0.05)
        kept = self.kept[self.keep(head.name, head.media_type, bytes(content))]
        return artifact_pb.CreateArtifactResponse(artifact=kept[0])

    async def read_artifact(self, request: Any, call: Call) -> AsyncIterator[Any]:
        _, content = self._of(request)
        end = request.offset + request.limit if request.limit else len(content)
        wanted = content[request.offset : end][: self.cut_read_after]
        self.reading += 1
        try:
            for start in range(0, len(wanted), 65536):
                yield artifact_pb.ReadArtifactResponse(content=wanted[start : start + 65536])
        finally:
            self.reading -= 1

    async def get_artifact(self, request: Any, call: Call) -> Any:
        return artifact_pb.GetArtifactResponse(artifact=self._of(request)[0])

    async def list_artifacts(self, request: Any, call: Call) -> Any:
        return artifact_pb.ListArtifactsResponse(artifacts=[artifact for artifact, _ in self.kept.values()])

    async def delete_artifact(self, request: Any, call: Call) -> Any:
        self.kept.pop(request.artifact_id, None)
        return artifact_pb.DeleteArtifactResponse()

    def _of(self, request: Any) -> tuple[types_pb2.Artifact, bytes]:
        if request.artifact_id not in self.kept:
            raise NotFound("there is no such artifact", reason="ARTIFACT_NOT_FOUND")
        return self.kept[request.artifact_id]


def services_of(tasks: FakeTasks, artifacts: FakeArtifacts) -> list[Any]:
    """Return the services as the kit's server builder takes them."""
    task_service = task_service_pb2.DESCRIPTOR.services_by_name["TaskService"]
    artifact_service = artifact_pb.DESCRIPTOR.services_by_name["ArtifactService"]
    return [(task_service, tasks, PUBLIC), (artifact_service, artifacts, PUBLIC)]
