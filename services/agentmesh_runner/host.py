"""The main program of a host process: runs one attempt after another for the runner that started it."""

import asyncio
import json
import math
import os
import select
import socket
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from google.rpc import status_pb2

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import telemetry
from agentmesh.kit.errors import MeshError, Unavailable, from_status
from agentmesh_runner.attempt_log import encode
from agentmesh_runner.execution import execute, failed
from agentmesh_runner.frames import UNTIL, Frame, Kind, read_frame, write_frame
from agentmesh_runner.lease import lease_time
from agentmesh_runner.registry import Registry


class SocketMesh:
    """The mesh through the runner's socket. Implements the SDK's port Mesh."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._number = 0
        self._pending: dict[int, asyncio.Queue[Frame]] = {}

    async def say(self, events: Sequence[events_pb2.TaskEvent], steps: Sequence[pb.StepRecord] = ()) -> None:
        """See Mesh."""
        batch = pb.EventBatch(events=encode(events), steps=steps)
        write_frame(self._writer, Frame(Kind.SAY, len(events), payload=batch.SerializeToString()))
        await self._writer.drain()

    async def settled(self) -> None:
        """See Mesh; asked after what was said, and answered in this order."""
        await self._ask("settled", b"")

    async def generate(self, request: llm_pb.GenerateRequest) -> AsyncGenerator[llm_pb.Delta, None]:
        """See Mesh."""
        async for item in self._call("generate", request.SerializeToString()):
            if item.kind is Kind.ITEM:
                yield llm_pb.Delta.FromString(item.payload)

    async def store_artifact(self, name: str, media_type: str, data: bytes) -> types_pb2.Artifact:
        """See Mesh."""
        payload = json.dumps([name, media_type]).encode() + b"\0" + data
        return types_pb2.Artifact.FromString(await self._ask("store", payload))

    async def load_artifact(self, artifact_id: str) -> tuple[types_pb2.Artifact, bytes]:
        """See Mesh."""
        reply = await self._ask("load", artifact_id.encode())
        end = 4 + int.from_bytes(reply[:4], "big")
        return types_pb2.Artifact.FromString(reply[4:end]), reply[end:]

    async def spawn(self, step_key: str, spec: task_pb2.TaskSpec) -> task_pb2.Task:
        """See Mesh."""
        payload = json.dumps(step_key).encode() + b"\0" + spec.SerializeToString()
        return task_pb2.Task.FromString(await self._ask("spawn", payload))

    async def child_ended(self, task_id: str) -> task_pb2.Task:
        """See Mesh."""
        return task_pb2.Task.FromString(await self._ask("child", task_id.encode()))

    async def input_given(self, input_id: str) -> types_pb2.Message:
        """See Mesh."""
        return types_pb2.Message.FromString(await self._ask("input", input_id.encode()))

    def waiting(self, awaited_task_ids: Sequence[str] | None) -> None:
        """See Mesh."""
        if awaited_task_ids is None:
            write_frame(self._writer, Frame(Kind.WORKING))
        else:
            release = pb.Outcome.Release(awaited_task_ids=awaited_task_ids)
            write_frame(self._writer, Frame(Kind.WAITING, payload=release.SerializeToString()))

    def take(self, frame: Frame) -> None:
        """Take in an answer."""
        queue = self._pending.get(frame.number)
        if queue is not None:
            queue.put_nowait(frame)

    async def _ask(self, method: str, payload: bytes) -> bytes:
        async for frame in self._call(method, payload):
            return frame.payload
        return b""

    async def _call(self, method: str, payload: bytes) -> AsyncIterator[Frame]:
        self._number += 1
        number = self._number
        queue: asyncio.Queue[Frame] = asyncio.Queue()
        self._pending[number] = queue
        try:
            write_frame(self._writer, Frame(Kind.CALL, number, method, payload))
            await self._writer.drain()
            while True:
                frame = await queue.get()
                if frame.kind is Kind.ERROR:
                    raise from_status(status_pb2.Status.FromString(frame.payload))
                yield frame
                if frame.kind is Kind.REPLY:
                    return
        finally:
            del self._pending[number]


class CountingExecutor(ThreadPoolExecutor):
    """Knows how many calls run: a thread can't be stopped, so a process that has one is not used again."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="agent")
        self.running = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Count a call until it ends."""
        self.running += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: "Future[Any]") -> None:
        self.running -= 1


async def serve(handle: int, agent_paths: Sequence[Path]) -> None:
    """Run attempts until the runner is gone."""
    threads = CountingExecutor()
    asyncio.get_running_loop().set_default_executor(threads)
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=handle))
    registry = Registry.load(agent_paths)
    running: asyncio.Task[Any] | None = None
    mesh = SocketMesh(writer)
    while True:
        try:
            frame = await read_frame(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        if frame.kind is Kind.ASSIGN:
            mesh = SocketMesh(writer)
            assignment = pb.Assignment.FromString(frame.payload)
            running = asyncio.create_task(_run(registry, assignment, mesh, writer, threads))
        elif frame.kind is Kind.STOP:
            if running is not None:
                running.cancel()
        else:
            mesh.take(frame)


async def _run(
    registry: Registry,
    assignment: pb.Assignment,
    mesh: SocketMesh,
    writer: asyncio.StreamWriter,
    threads: CountingExecutor,
) -> None:
    try:
        outcome = await execute(registry.get(assignment.spec.agent), assignment, mesh)
    except MeshError as error:
        outcome = failed(error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        outcome = pb.Outcome(canceled=pb.Outcome.Canceled())
        if task is None or not task.cancelling():
            outcome = failed(Unavailable("the agent let itself be canceled", reason="AGENT_FAILED"))
    write_frame(writer, Frame(Kind.OUTCOME, threads.running, payload=outcome.SerializeToString()))
    await writer.drain()


def _watch(lifeline: int) -> None:
    """End this process when the runner ends, or its lease does, even while an agent blocks the loop."""
    until = math.inf
    pipe = select.poll()
    pipe.register(lifeline, select.POLLIN)
    while (left_s := until - lease_time()) > 0:
        if pipe.poll(None if left_s == math.inf else left_s * 1000):
            told = os.read(lifeline, UNTIL.size * 64)
            if not told:
                break
            (until,) = UNTIL.unpack(told[-UNTIL.size :])
    os._exit(1)


def main() -> None:
    """Run as `python -m agentmesh_runner.host SOCKET LIFELINE [AGENT_PATH…]`."""
    handle, lifeline, *paths = sys.argv[1:]
    telemetry.configure_logging(service="agent-host")
    threading.Thread(target=_watch, args=(int(lifeline),), daemon=True).start()
    asyncio.run(serve(int(handle), [Path(path) for path in paths]))
    os._exit(0)  # threads of agents don't hold the process


if __name__ == "__main__":
    main()
