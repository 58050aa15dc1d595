"""Host processes: each runs one attempt at a time, knows no secret, and is killed if it does not stop.

Through its lifeline a host hears until when it may work, and that the runner is gone.
"""

import asyncio
import contextlib
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

from google.protobuf.message import Message

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit import telemetry
from agentmesh.kit.errors import MeshError, Unavailable, to_status
from agentmesh_runner.execution import failed
from agentmesh_runner.frames import UNTIL, Frame, Kind, read_frame, write_frame
from agentmesh_runner.lease import Lease
from agentmesh_runner.running import Running
from agentmesh_runner.stopping import LEASE_LOST

log = telemetry.logger(__name__)

_STOP_GRACE_S = 2.0
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "SYSTEMROOT")


class Host:
    """One host process and the socket to it."""

    def __init__(self, agent_paths: Sequence[Path]) -> None:
        ours, theirs = socket.socketpair()
        lifeline_theirs, self._lifeline = os.pipe()
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "agentmesh_runner.host",
                str(theirs.fileno()),
                str(lifeline_theirs),
                *map(str, agent_paths),
            ],
            pass_fds=(theirs.fileno(), lifeline_theirs),
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        os.close(lifeline_theirs)
        os.set_blocking(self._lifeline, False)
        self._lease: Lease | None = None  # of the attempt that runs
        self._socket = ours
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._killed = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    async def execute(self, running: Running) -> pb.Outcome:
        """Run one attempt; when cancelled, ask the process to stop and kill it after 2 s."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._lease = running.lease
        self.tell_lease()
        write_frame(self._writer, Frame(Kind.ASSIGN, payload=running.assignment_now().SerializeToString()))
        try:
            return await self._converse(running)
        except asyncio.CancelledError:
            self._end_calls()
            if running.stop_reason == LEASE_LOST:
                self.kill()  # somebody else may be at work by now
            else:
                await self._stop()
            raise
        except (asyncio.IncompleteReadError, ConnectionError):
            self.kill()
            log.warning("host_died", task_id=running.task_id, code=self._process.poll())
            return failed(Unavailable("the agent's process died", reason="HOST_DIED"))
        finally:
            self._end_calls()
            self._lease = None
            self.tell_lease()

    def tell_lease(self) -> None:
        """Tell the process until when it may work; without an attempt, it may wait for ever."""
        until = math.inf if self._lease is None else self._lease.until
        # A pipe that is full or closed is that of a process which has ended, or soon will by itself.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            if not self._killed:
                os.write(self._lifeline, UNTIL.pack(until))

    def kill(self) -> None:
        """End the process now."""
        if self._killed:
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        if self._writer is not None:
            self._writer.close()
        else:
            self._socket.close()
        os.close(self._lifeline)

    def _end_calls(self) -> None:
        for call in self._calls:
            call.cancel()
        self._calls.clear()

    async def _converse(self, running: Running) -> pb.Outcome:
        assert self._reader is not None
        while True:
            frame = await read_frame(self._reader)
            if frame.kind is Kind.SAY:
                batch = pb.EventBatch.FromString(frame.payload)
                await running.say_encoded(batch.events, frame.number, batch.steps)
            elif frame.kind is Kind.CALL:
                call = asyncio.create_task(self._answer(running, frame))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            elif frame.kind is Kind.WAITING:
                running.waiting(pb.Outcome.Release.FromString(frame.payload).awaited_task_ids)
            elif frame.kind is Kind.WORKING:
                running.waiting(None)
            elif frame.kind is Kind.OUTCOME:
                if frame.number:
                    self.kill()
                return pb.Outcome.FromString(frame.payload)

    async def _answer(self, running: Running, frame: Frame) -> None:
        assert self._writer is not None
        try:
            await self._call(running, frame)
        except MeshError as error:
            status = to_status(error).SerializeToString()
            write_frame(self._writer, Frame(Kind.ERROR, frame.number, payload=status))

    async def _call(self, running: Running, frame: Frame) -> None:
        assert self._writer is not None
        writer, payload = self._writer, frame.payload
        if frame.method == "generate":
            async with aclosing(running.generate(llm_pb.GenerateRequest.FromString(payload))) as answer:
                async for delta in answer:
                    write_frame(writer, Frame(Kind.ITEM, frame.number, payload=delta.SerializeToString()))
                    await writer.drain()
            reply = b""
        elif frame.method == "settled":
            await running.settled()
            reply = b""
        elif frame.method == "store":
            head, _, data = payload.partition(b"\0")
            name, media_type = json.loads(head)  # JSON has no zero byte
            reply = _bytes(await running.store_artifact(name, media_type, data))
        elif frame.method == "load":
            artifact, data = await running.load_artifact(payload.decode())
            head = artifact.SerializeToString()
            reply = len(head).to_bytes(4, "big") + head + data
        elif frame.method == "spawn":
            step_key, _, spec = payload.partition(b"\0")
            reply = _bytes(await running.spawn(json.loads(step_key), task_pb2.TaskSpec.FromString(spec)))
        elif frame.method == "child":
            reply = _bytes(await running.child_ended(payload.decode()))
        elif frame.method == "input":
            reply = _bytes(await running.input_given(payload.decode()))
        else:
            raise Unavailable("the host asked for something unknown", reason="UNKNOWN_CALL")
        write_frame(writer, Frame(Kind.REPLY, frame.number, payload=reply))
        await writer.drain()

    async def _stop(self) -> None:
        assert self._writer is not None
        try:
            write_frame(self._writer, Frame(Kind.STOP))
            # In a task that was cancelled, asyncio.timeout never becomes TimeoutError in the first releases of 3.11.
            threads = await asyncio.wait_for(self._threads_at_end(), _STOP_GRACE_S)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            self.kill()
        else:
            if threads:
                self.kill()

    async def _threads_at_end(self) -> int:
        """Wait for the outcome and return how many threads still run."""
        assert self._reader is not None
        while (frame := await read_frame(self._reader)).kind is not Kind.OUTCOME:
            continue
        return frame.number


class HostPool:
    """At most `limit` host processes, started when they are needed and used again."""

    def __init__(self, limit: int, agent_paths: Sequence[Path]) -> None:
        self.limit = limit
        self._agent_paths = agent_paths
        self._free = asyncio.Semaphore(limit)
        self._idle: list[Host] = []
        self._all: set[Host] = set()

    async def execute(self, running: Running) -> pb.Outcome:
        """Run an attempt in a process, waiting for a free one."""
        async with self._free:
            host = self._take()
            try:
                return await host.execute(running)
            finally:
                if host.alive:
                    self._idle.append(host)
                else:
                    self._all.discard(host)

    def lease_extended(self) -> None:
        """Tell every process that works until when it may."""
        for host in self._all:
            host.tell_lease()

    def close(self) -> None:
        """End every process."""
        for host in self._all:
            host.kill()
        self._all.clear()
        self._idle.clear()

    def _take(self) -> Host:
        while self._idle:
            host = self._idle.pop()
            if host.alive:
                return host
            host.kill()
            self._all.discard(host)
        host = Host(self._agent_paths)
        self._all.add(host)
        return host


def _bytes(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data
