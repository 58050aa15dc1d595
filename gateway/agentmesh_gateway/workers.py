"""Runs the gateway as several processes on one listening socket, and replaces those that die or have served enough."""

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from agentmesh.kit import config_source, names, telemetry
from agentmesh.kit.errors import Unavailable, WrongState
from agentmesh.kit.settings import Api, Settings
from agentmesh_gateway.worker_metrics import WorkerMetrics

log = telemetry.logger(__name__)

VARIABLE = "_AGENTMESH_GATEWAY_WORKER"
"""What a worker is told: its number and the descriptor of the listening socket."""
# What a worker says, and what it is answered.
_STARTED, _ENOUGH = b"started\n", b"enough\n"
_RETIRE = b"retire\n"
_FIRST_BACKOFF_S, _LAST_BACKOFF_S, _STEADY_S = 0.1, 5.0, 10.0
_KILL_GRACE_S = 3.0
_START_S = 60.0
_LOOK_S = 0.2


def needed(api: Api) -> bool:
    """Say whether workers are wanted: several, or such that are replaced."""
    return api.workers > 1 or api.max_requests > 0


@dataclass(frozen=True, slots=True)
class Place:
    """The place of this process among the workers."""

    number: int
    listener: int

    @staticmethod
    def here() -> "Place | None":
        """Return this worker's place, or None for a gateway that is no worker."""
        told = os.environ.pop(VARIABLE, "")
        if not told:
            return None
        number, listener = told.split(":")
        return Place(int(number), int(listener))

    def open_listener(self) -> socket.socket:
        """Return the socket that all workers accept on."""
        return socket.socket(fileno=self.listener)

    def started(self) -> None:
        """Tell the parent that requests can come."""
        os.write(sys.stdout.fileno(), _STARTED)

    def enough(self, retire: Callable[[], None]) -> None:
        """Tell the parent that this worker has served enough, and do as it says once another may take its place."""
        loop, answer = asyncio.get_running_loop(), sys.stdin.fileno()

        def answered() -> None:
            loop.remove_reader(answer)
            retire()

        loop.add_reader(answer, answered)
        os.write(sys.stdout.fileno(), _ENOUGH)


class Workers:
    """The processes of one gateway; they end with this one, however it ends.

    No more of them retire at a time than there are to be: answers may take an hour, and each process its memory.
    """

    def __init__(self, settings: Settings, listener: socket.socket, metrics: WorkerMetrics) -> None:
        if os.name != "posix":
            raise WrongState(
                "api.workers and api.max_requests need Linux or macOS: set them to 1 and 0", reason="NO_WORKERS"
            )
        self._settings = settings
        self._listener = listener
        self._metrics = metrics
        self._processes: dict[int, Process] = {}  # by their ids, those that retire too
        self._retiring: set[int] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._lifeline = -1
        self._reading = -1

    async def run(self, stop: asyncio.Event) -> None:
        """Start the workers, keep them running until `stop`, then drain them; raise Unavailable if they can't start."""
        self._reading, self._lifeline = os.pipe()
        os.set_inheritable(self._reading, True)
        self._listener.set_inheritable(True)
        numbers = range(1, self._settings.api.workers + 1)
        async with AsyncExitStack() as stack:
            stack.callback(os.close, self._reading)
            stack.callback(os.close, self._lifeline)
            stack.push_async_callback(self._stop_all)
            first = await asyncio.gather(*(self._start(number) for number in numbers))
            keeping = [
                asyncio.create_task(self._keep(number, process)) for number, process in zip(numbers, first, strict=True)
            ]
            log.info("workers_started", workers=len(first))
            await stop.wait()
            for task in keeping:
                task.cancel()

    async def _keep(self, number: int, process: Process) -> None:
        """Have one worker of this number running at any time."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            began = time.monotonic()
            if await _line(process) == _ENOUGH and await self._may_retire(process):
                log.info("worker_retires", worker=number, pid=process.pid)
            else:
                code = await process.wait()
                log.warning("worker_ended", worker=number, code=code)
                backoff_s = _FIRST_BACKOFF_S if time.monotonic() - began > _STEADY_S else backoff_s
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _LAST_BACKOFF_S)
            while True:
                try:
                    process = await self._start(number)
                    break
                except Unavailable as error:
                    log.error("worker_not_started", worker=number, reason=error.reason)
                    await asyncio.sleep(_LAST_BACKOFF_S)

    async def _may_retire(self, process: Process) -> bool:
        """Let a worker retire as soon as there is room for one more that does; say whether it lived to hear it."""
        while len(self._retiring) >= self._settings.api.workers and process.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)  # rare, and what is waited for takes minutes
        if process.returncode is not None:
            return False
        self._retiring.add(process.pid)
        assert process.stdin is not None
        process.stdin.write(_RETIRE)
        return True

    async def _start(self, number: int) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentmesh", "serve", "gateway"),
            env=self._environment(number),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=(self._listener.fileno(), self._reading),
            start_new_session=True,  # Ctrl-C reaches only this process, which then drains the workers
        )
        self._processes[process.pid] = process
        self._metrics.add(process.pid)
        burial = asyncio.create_task(self._bury(process))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)
        try:
            async with asyncio.timeout(_START_S):
                started = await _line(process) == _STARTED
        except TimeoutError:
            started = False
        if not started:
            with suppress(ProcessLookupError):
                process.kill()
            raise Unavailable("a worker could not start; its message is above", reason="START_FAILED")
        return process

    def _environment(self, number: int) -> Mapping[str, str]:
        told = {VARIABLE: f"{number}:{self._listener.fileno()}", names.LIFELINE: str(self._reading)}
        return {**os.environ, **config_source.variables_of(self._settings), **self._metrics.variables, **told}

    async def _bury(self, process: Process) -> None:
        await process.wait()
        self._processes.pop(process.pid, None)
        self._retiring.discard(process.pid)
        self._metrics.forget(process.pid)

    async def _stop_all(self) -> None:
        """Drain every worker, and kill what does not end in time."""
        for process in list(self._processes.values()):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        patience_s = self._settings.drain_delay_s + self._settings.drain_timeout_s + _KILL_GRACE_S
        ending = [asyncio.create_task(process.wait()) for process in self._processes.values()]
        if ending:
            await asyncio.wait(ending, timeout=patience_s)
        for process in list(self._processes.values()):
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()
