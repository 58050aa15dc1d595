"""The client for programs without asyncio: AsyncClient, run on a thread of its own."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

from agentmesh.api.schedule.v1 import schedule_service_pb2
from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.client.asynchronous import Answer, AsyncClient
from agentmesh.client.event import Event
from agentmesh.client.result import Result
from agentmesh.client.schedules import Overlap
from agentmesh.client.spec import TaskOptions

T = TypeVar("T")


class Client:
    """Talks to a mesh from any thread. Use it as `with Client() as client:`.

    Arguments, results and errors are those of AsyncClient; streams are iterators that block. Don't use it inside
    a running event loop.
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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agentmesh-client", daemon=True)
        self._thread.start()

        async def make() -> AsyncClient:
            return AsyncClient(
                address,
                token=token,
                ca=ca,
                timeout_s=timeout_s,
                retry_for_s=retry_for_s,
                first_contact_s=first_contact_s,
            )

        try:
            self._client = self._wait(make())
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. May be called again."""
        if self._loop.is_closed():
            return
        self._wait(self._client.aclose())
        self._wait(self._loop.shutdown_asyncgens())
        self._wait(self._loop.shutdown_default_executor())
        self._stop()

    def submit(
        self, agent: str, prompt: str = "", *, request_id: str | None = None, **options: Unpack[TaskOptions]
    ) -> task_pb2.Task:
        """Submit a task and return it once it is durable; see AsyncClient.submit."""
        return self._wait(self._client.submit(agent, prompt, request_id=request_id, **options))

    def stream(
        self,
        agent: str,
        prompt: str = "",
        *,
        request_id: str | None = None,
        cancel_on_disconnect: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Iterator[Event]:
        """Submit a task and yield its events to the last; see AsyncClient.stream."""
        return self._iterate(
            self._client.stream(
                agent, prompt, request_id=request_id, cancel_on_disconnect=cancel_on_disconnect, **options
            )
        )

    def run(
        self,
        agent: str,
        prompt: str = "",
        *,
        request_id: str | None = None,
        cancel_on_disconnect: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Result:
        """Submit a task and return its folded result, also if it FAILED; see AsyncClient.run."""
        return self._wait(
            self._client.run(agent, prompt, request_id=request_id, cancel_on_disconnect=cancel_on_disconnect, **options)
        )

    def watch(self, task_id: str, after_sequence: int = 0) -> Iterator[Event]:
        """Yield a task's events after a sequence, and then live to the last; see AsyncClient.watch."""
        return self._iterate(self._client.watch(task_id, after_sequence))

    def result(self, task_id: str) -> Result:
        """Wait for a task's end and return its folded result."""
        return self._wait(self._client.result(task_id))

    def get(self, task_id: str) -> task_pb2.Task:
        """Return a task as it stands; raise NotFound."""
        return self._wait(self._client.get(task_id))

    def list(
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
        """Return a page of tasks, newest first; see AsyncClient.list."""
        return self._wait(
            self._client.list(
                states=states,
                agent=agent,
                label=label,
                created_after=created_after,
                created_before=created_before,
                context_id=context_id,
                parent_id=parent_id,
                schedule_id=schedule_id,
                order=order,
                page_size=page_size,
                page_token=page_token,
            )
        )

    def cancel(self, task_id: str) -> task_pb2.Task:
        """Ask for a task to stop; see AsyncClient.cancel."""
        return self._wait(self._client.cancel(task_id))

    def retry(self, task_id: str, *, request_id: str | None = None, inherit_journal: bool = False) -> task_pb2.Task:
        """Submit an ended task anew and return the new one; see AsyncClient.retry."""
        return self._wait(self._client.retry(task_id, request_id=request_id, inherit_journal=inherit_journal))

    def send_input(self, task_id: str, input_id: str, answer: Answer) -> task_pb2.Task:
        """Answer the question of an INPUT_REQUIRED task; see AsyncClient.send_input."""
        return self._wait(self._client.send_input(task_id, input_id, answer))

    def agents(self) -> Sequence[task_pb2.Agent]:
        """Return every agent that is known, by name."""
        return self._wait(self._client.agents())

    def agent(self, name: str) -> task_pb2.Agent:
        """Return one agent; raise NotFound."""
        return self._wait(self._client.agent(name))

    def upload(
        self, source: str | os.PathLike[str] | bytes, *, name: str | None = None, media_type: str | None = None
    ) -> types_pb2.Artifact:
        """Store the file at a path, or bytes; see AsyncClient.upload."""
        return self._wait(self._client.upload(source, name=name, media_type=media_type))

    def download(self, artifact_id: str, to: str | os.PathLike[str]) -> Path:
        """Write an artifact to a file that must not exist yet; see AsyncClient.download."""
        return self._wait(self._client.download(artifact_id, to))

    def create_schedule(
        self,
        agent: str,
        prompt: str = "",
        *,
        cron: str = "",
        every_s: float | None = None,
        time_zone: str = "",
        overlap: Overlap = "skip",
        catch_up_s: float | None = None,
        name: str = "",
        begin_time: datetime | None = None,
        end_time: datetime | None = None,
        request_id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> schedule_service_pb2.Schedule:
        """Make a schedule that submits this task again and again; see AsyncClient.create_schedule."""
        return self._wait(
            self._client.create_schedule(
                agent,
                prompt,
                cron=cron,
                every_s=every_s,
                time_zone=time_zone,
                overlap=overlap,
                catch_up_s=catch_up_s,
                name=name,
                begin_time=begin_time,
                end_time=end_time,
                request_id=request_id,
                **options,
            )
        )

    def schedules(self, *, page_size: int = 0, page_token: str = "") -> schedule_service_pb2.ListSchedulesResponse:
        """Return a page of schedules, newest first; see AsyncClient.schedules."""
        return self._wait(self._client.schedules(page_size=page_size, page_token=page_token))

    def schedule(self, schedule_id: str) -> schedule_service_pb2.Schedule:
        """Return a schedule as it stands; raise NotFound."""
        return self._wait(self._client.schedule(schedule_id))

    def delete_schedule(self, schedule_id: str) -> None:
        """End a schedule; the tasks that it made stay. Raises NotFound."""
        return self._wait(self._client.delete_schedule(schedule_id))

    def pause_schedule(self, schedule_id: str) -> schedule_service_pb2.Schedule:
        """Let a schedule fire no more until it is resumed; see AsyncClient.pause_schedule."""
        return self._wait(self._client.pause_schedule(schedule_id))

    def resume_schedule(self, schedule_id: str) -> schedule_service_pb2.Schedule:
        """Let a schedule fire again, from now on; see AsyncClient.resume_schedule."""
        return self._wait(self._client.resume_schedule(schedule_id))

    def run_schedule(self, schedule_id: str, *, request_id: str | None = None) -> task_pb2.Task:
        """Make a schedule's task now and return it; see AsyncClient.run_schedule."""
        return self._wait(self._client.run_schedule(schedule_id, request_id=request_id))

    def _wait(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C here ends the call there
            raise

    def _iterate(self, events: AsyncGenerator[Event, None]) -> Iterator[Event]:
        try:
            while (event := self._wait(anext(events, None))) is not None:
                yield event
        finally:
            if not self._loop.is_closed():
                self._wait(events.aclose())

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
