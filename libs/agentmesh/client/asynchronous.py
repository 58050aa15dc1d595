"""The client for asyncio programs: submit tasks, follow them, steer them, move files."""

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.client import artifacts
from agentmesh.client.calls import Caller
from agentmesh.client.channels import ChannelPool, addresses_from, ca_from_environment
from agentmesh.client.event import Event, events_of
from agentmesh.client.following import Following
from agentmesh.client.lane import Lane
from agentmesh.client.result import Result
from agentmesh.client.schedules import ScheduleCalls
from agentmesh.client.spec import Json, TaskOptions, build_spec, in_utc
from agentmesh.kit.ids import new_id

Answer = str | Mapping[str, Json] | types_pb2.Message


class AsyncClient(ScheduleCalls):
    """Talks to a mesh. Use it as `async with AsyncClient() as client:`; it belongs to one event loop.

    `address` is host:port or several of them, separated by commas or as a list; the next one is used after a
    failure. Without it, $AGENTMESH_ADDRESS or 127.0.0.1:50051. `token` is an API key; without it,
    $AGENTMESH_TOKEN. With `ca` (a PEM file, or `system` for the authorities that every client knows) or with
    $AGENTMESH_CA, calls go over TLS.

    Calls that are safe to repeat are repeated, with jittered waits, while the mesh can't be reached or asks for
    patience (OVERLOADED, RATE_LIMITED): for at most `retry_for_s` seconds without progress, or `first_contact_s` as
    long as it has never answered. Then, and for anything else that is wrong, they raise a MeshError of
    `agentmesh.kit.errors`. `timeout_s` bounds a single unary call.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        token: str | None = None,
        ca: Path | None = None,
        timeout_s: float = 30.0,
        retry_for_s: float = 60.0,
        first_contact_s: float | None = None,
    ) -> None:
        self._pool = ChannelPool(addresses_from(address), ca=ca or ca_from_environment())
        self._caller = Caller(
            self._pool,
            token=os.environ.get("AGENTMESH_TOKEN", "") if token is None else token,
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
            first_contact_s=retry_for_s if first_contact_s is None else first_contact_s,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; open streams end. Tasks go on, unless they were to be canceled on disconnect."""
        await self._pool.aclose()

    @property
    def address(self) -> str:
        """Where the next call goes."""
        return self._pool.address

    # -- running tasks ------------------------------------------------------------------------------------

    async def submit(
        self, agent: str, prompt: str = "", *, request_id: str | None = None, **options: Unpack[TaskOptions]
    ) -> task_pb2.Task:
        """Submit a task and return it once it is durable.

        `request_id` makes submits the same task (at most 128 characters); a fresh one is made if it is None.
        Raises InvalidRequest with the fields that are wrong, AlreadyExists if the id belongs to another body.
        """
        spec = await self._spec(agent, prompt, options)
        request = pb.SubmitTaskRequest(request_id=request_id or new_id(), spec=spec)
        task: task_pb2.Task = (await self._caller.unary("tasks", "SubmitTask", request)).task
        return task

    async def stream(
        self,
        agent: str,
        prompt: str = "",
        *,
        request_id: str | None = None,
        cancel_on_disconnect: bool = False,
        **options: Unpack[TaskOptions],
    ) -> AsyncGenerator[Event, None]:
        """Submit a task and yield its events to the last, over any number of broken calls: no gap, no double.

        Events are as they were said: pass them through a Folder if attempts may fail. With
        `cancel_on_disconnect`, the task is canceled when the iteration (or this process) ends before it. Raises as
        `submit`, and Unavailable if the mesh stays out of reach.
        """
        submit = await self._stream_request(agent, prompt, request_id, cancel_on_disconnect, options)
        async with aclosing(Following(self._caller, submit=submit).chunks()) as chunks:
            async for chunk in chunks:
                for event in events_of((chunk,)):
                    yield event

    async def run(
        self,
        agent: str,
        prompt: str = "",
        *,
        request_id: str | None = None,
        cancel_on_disconnect: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Result:
        """Submit a task and return its folded result, also if it FAILED: see Result.raise_for_state.

        Raises as `stream`.
        """
        submit = await self._stream_request(agent, prompt, request_id, cancel_on_disconnect, options)
        following = Following(self._caller, submit=submit)
        async with aclosing(following.chunks()) as chunks:
            log = [chunk async for chunk in chunks]
        return Result(following.task_id, log)

    def lane(self, *, max_in_flight: int = 512) -> Lane:
        """Return the fast lane: many tasks over one call. Use it as `async with client.lane() as lane:`.

        At most `max_in_flight` of its tasks (1 to 900) are unfinished at a time; further ones wait.
        """
        return Lane(self._caller, max_in_flight=max_in_flight)

    # -- tasks that exist ---------------------------------------------------------------------------------

    async def watch(self, task_id: str, after_sequence: int = 0) -> AsyncGenerator[Event, None]:
        """Yield a task's events after a sequence, and then live to the last, over broken calls.

        Raises NotFound, OutOfRange if that part of the log is gone, Unavailable if the mesh stays out of reach.
        """
        following = Following(self._caller, task_id=task_id, after_sequence=after_sequence)
        async with aclosing(following.chunks()) as chunks:
            async for chunk in chunks:
                for event in events_of((chunk,)):
                    yield event

    async def result(self, task_id: str) -> Result:
        """Wait for a task's end and return its folded result."""
        async with aclosing(Following(self._caller, task_id=task_id).chunks()) as chunks:
            return Result(task_id, [chunk async for chunk in chunks])

    async def get(self, task_id: str) -> task_pb2.Task:
        """Return a task as it stands; raise NotFound."""
        task: task_pb2.Task = (await self._caller.unary("tasks", "GetTask", pb.GetTaskRequest(task_id=task_id))).task
        return task

    async def list(
        self,
        *,
        states: Sequence[events_pb2.TaskState.ValueType] = (),
        agent: str = "",
        label: str = "",
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        context_id: str = "",
        parent_id: str = "",
        schedule_id: str = "",
        order: pb.TaskOrder.ValueType = pb.TASK_ORDER_CREATE_TIME,
        page_size: int = 0,
        page_token: str = "",
    ) -> pb.ListTasksResponse:
        """Return a page of tasks, newest first; every filter that is given must hold.

        `label` is key=value; times without a zone are UTC; `page_size` is at most 1000, 50 if 0.
        `next_page_token` of the answer fetches the next page.
        """
        request = pb.ListTasksRequest(
            states=states,
            agent=agent,
            label=label,
            context_id=context_id,
            parent_id=parent_id,
            schedule_id=schedule_id,
            order=order,
            page_size=page_size,
            page_token=page_token,
        )
        if created_after is not None:
            request.created_after.FromDatetime(in_utc(created_after))
        if created_before is not None:
            request.created_before.FromDatetime(in_utc(created_before))
        page: pb.ListTasksResponse = await self._caller.unary("tasks", "ListTasks", request)
        return page

    async def cancel(self, task_id: str) -> task_pb2.Task:
        """Ask for a task to stop; a running one ends a little later. Idempotent.

        Raises WrongState if it ended in another way.
        """
        request = pb.CancelTaskRequest(task_id=task_id)
        task: task_pb2.Task = (await self._caller.unary("tasks", "CancelTask", request)).task
        return task

    async def retry(
        self, task_id: str, *, request_id: str | None = None, inherit_journal: bool = False
    ) -> task_pb2.Task:
        """Submit an ended task anew and return the new one; with `inherit_journal`, finished steps are kept.

        Raises WrongState if the task has not ended.
        """
        request = pb.RetryTaskRequest(
            task_id=task_id, request_id=request_id or new_id(), inherit_journal=inherit_journal
        )
        task: task_pb2.Task = (await self._caller.unary("tasks", "RetryTask", request)).task
        return task

    async def send_input(self, task_id: str, input_id: str, answer: Answer) -> task_pb2.Task:
        """Answer the question of an INPUT_REQUIRED task: with text, data, or a whole Message.

        Not repeated by itself, because a lost reply can't be told from an answer by somebody else. Raises
        WrongState with reason INPUT_ALREADY_GIVEN if the question has its answer.
        """
        request = pb.SendTaskInputRequest(task_id=task_id, input_id=input_id, message=_message(answer))
        response: pb.SendTaskInputResponse = await self._caller.unary("tasks", "SendTaskInput", request, repeat=False)
        return response.task

    # -- agents and artifacts -----------------------------------------------------------------------------

    async def agents(self) -> Sequence[task_pb2.Agent]:
        """Return every agent that is known, by name; `serving` says whether it is served now."""
        found: list[task_pb2.Agent] = []
        token = ""
        while True:
            page = await self._caller.unary("tasks", "ListAgents", pb.ListAgentsRequest(page_token=token))
            found.extend(page.agents)
            token = page.next_page_token
            if not token:
                return found

    async def agent(self, name: str) -> task_pb2.Agent:
        """Return one agent; raise NotFound."""
        agent: task_pb2.Agent = (await self._caller.unary("tasks", "GetAgent", pb.GetAgentRequest(agent=name))).agent
        return agent

    async def upload(
        self, source: str | os.PathLike[str] | bytes, *, name: str | None = None, media_type: str | None = None
    ) -> types_pb2.Artifact:
        """Store the file at a path (a str is a path), or bytes, and return the artifact.

        The name is the file's unless given; the media type is guessed from it. Raises OSError if the file can't be
        read.
        """
        return await artifacts.upload(self._caller, source, name=name, media_type=media_type)

    async def download(self, artifact_id: str, to: str | os.PathLike[str]) -> Path:
        """Write an artifact to a file that must not exist yet, and return its path.

        The bytes are checked against their digest. Raises NotFound and FileExistsError.
        """
        return await artifacts.download(self._caller, artifact_id, Path(to))

    def read_artifact(self, artifact_id: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield an artifact's bytes from an offset to the end, in pieces of at most 256 KiB."""
        return artifacts.read(self._caller, artifact_id, offset)

    # -- inside -------------------------------------------------------------------------------------------

    async def _spec(self, agent: str, prompt: str, options: TaskOptions) -> task_pb2.TaskSpec:
        uploaded = [(await self.upload(file)).artifact_id for file in options.get("files", ())]
        return build_spec(agent, prompt, options, uploaded)

    async def _stream_request(
        self, agent: str, prompt: str, request_id: str | None, cancel_on_disconnect: bool, options: TaskOptions
    ) -> pb.StreamTaskRequest:
        spec = await self._spec(agent, prompt, options)
        return pb.StreamTaskRequest(
            request_id=request_id or new_id(), spec=spec, cancel_on_disconnect=cancel_on_disconnect
        )


def _message(answer: Answer) -> types_pb2.Message:
    if isinstance(answer, types_pb2.Message):
        return answer
    if isinstance(answer, str):
        return types_pb2.Message(role=types_pb2.ROLE_USER, parts=[types_pb2.Part(text=answer)])
    part = types_pb2.Part()
    part.data.struct_value.update(dict(answer))
    return types_pb2.Message(role=types_pb2.ROLE_USER, parts=[part])
