"""After the faults: waits until tasks have ended, and puts what every router says of them into a history."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.kit.rpc_client import open_channel
from tests.support.history import History
from tests.support.reading import Entry

_TERMINAL = (3, 4, 5, 7)
_CALL_S = 20.0
_AT_ONCE = 16
_LOOK_S = 0.2


async def settle(routers: Sequence[str], history: History, *, bound_s: float) -> int:
    """Wait until all tasks have ended, at most `bound_s`; put what is stored into the history; count the tasks."""
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(tasks_at(address)) for address in routers]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                while any(task.state not in _TERMINAL for task in await all_tasks(stubs[0])):
                    await asyncio.sleep(_LOOK_S)
        tasks = await all_tasks(stubs[0])
        room = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(_collect(task.id, stubs, history, room) for task in tasks))
        return len(tasks)


async def collect(routers: Sequence[str], history: History, *task_ids: str) -> None:
    """Put what is stored of these tasks into the history, as every router says it."""
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(tasks_at(address)) for address in routers]
        for task_id in task_ids:
            await _collect(task_id, stubs, history, asyncio.Semaphore(1))


@asynccontextmanager
async def tasks_at(address: str) -> AsyncIterator[Any]:
    """Yield a stub of TaskService at an address."""
    async with open_channel(address) as channel:
        yield pb_grpc.TaskServiceStub(channel)


async def all_tasks(stub: Any) -> list[task_pb2.Task]:
    """Return every task that there is, children too."""
    found: list[task_pb2.Task] = []
    token = ""
    while True:
        page = await stub.ListTasks(pb.ListTasksRequest(page_size=500, page_token=token), timeout=_CALL_S)
        found += page.tasks
        token = page.next_page_token
        if not token:
            return found


async def _collect(task_id: str, stubs: list[Any], history: History, room: asyncio.Semaphore) -> None:
    async with room:
        task = (await stubs[0].GetTask(pb.GetTaskRequest(task_id=task_id), timeout=_CALL_S)).task
        ended = task.state in _TERMINAL
        log: list[Entry] = []
        for number, stub in enumerate(stubs):
            reading = history.read(f"router-{number + 1} at the end", task_id)
            call = stub.WatchTask(pb.WatchTaskRequest(task_id=task_id), timeout=_CALL_S if ended else 1.0)
            with contextlib.suppress(Exception) if not ended else contextlib.nullcontext():
                async for response in call:
                    for chunk in response.chunks:
                        reading.add_chunk(chunk)
                        if not number:
                            log += [(chunk.first_sequence + i, chunk.attempt, e) for i, e in enumerate(chunk.events)]
        history.store(task, log)
