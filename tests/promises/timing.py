"""What is timed, and against which bound; the tests of the same promises assert that it happens at all."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.client import AsyncClient
from agentmesh.kit.clock import duration
from tests.support.fake_provider import FakeProvider
from tests.support.fleet import Fleet
from tests.support.postgres import Postgres
from tests.support.reading import echo
from tests.support.settling import tasks_at

_TIMES = 20
_LONG_S = 60.0


@dataclass(frozen=True)
class Stage:
    """Where it is timed: two of everything, router-1 behind a proxy, a provider on a port."""

    fleet: Fleet
    postgres: Postgres
    provider_port: int


@dataclass(frozen=True)
class Figure:
    """One figure of a promise, in seconds."""

    promise: str
    what: str
    measure: Callable[[Stage], Awaitable[list[float]]]
    most_s: float
    typical_s: float | None = None


async def cancel_to_socket(stage: Stage) -> list[float]:
    """From the call of CancelTask, over another router, to the close of the provider's socket."""
    times = []
    async with _called(stage) as (provider, spec, stub, other):
        for number in range(_TIMES):
            task_id = await _submit(stub, spec)
            await _until(lambda n=number: len(provider.hits) > n)  # type: ignore[misc]
            began = time.monotonic()
            await other.CancelTask(pb.CancelTaskRequest(task_id=task_id), timeout=_LONG_S)
            await asyncio.wait_for(provider.hits[number].closed.wait(), _LONG_S)
            times.append(time.monotonic() - began)
    return times


async def deadline_to_socket(stage: Stage) -> list[float]:
    """From a task's deadline to the close of the provider's socket."""
    times = []
    async with _called(stage) as (provider, spec, stub, _):
        spec.timeout.CopyFrom(duration(0.5))
        for number in range(_TIMES):
            began = time.monotonic()
            await _submit(stub, spec)
            await _until(lambda n=number: len(provider.hits) > n)  # type: ignore[misc]
            await asyncio.wait_for(provider.hits[number].closed.wait(), _LONG_S)
            times.append(time.monotonic() - began - 0.5)
    return times


async def refusal_without_postgresql(stage: Stage) -> list[float]:
    """From a submit to its UNAVAILABLE, with PostgreSQL frozen."""
    times = []
    async with tasks_at(stage.fleet.routers[1]) as stub:
        await asyncio.to_thread(stage.postgres.freeze)
        try:
            for _ in range(5):
                began = time.monotonic()
                with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                    await _submit(stub, echo())
                times.append(time.monotonic() - began)
        finally:
            await asyncio.to_thread(stage.postgres.thaw)
    return times


async def silence_is_noticed(stage: Stage) -> list[float]:
    """From the moment that a network swallows everything to the client's success at the next router."""
    proxy = stage.fleet.proxies["router-1"]
    async with AsyncClient(stage.fleet.router) as client:
        await client.run("echo", "x")
        running = asyncio.create_task(client.run("echo", "x", parameters={"count": 20, "delay_ms": 50}))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        proxy.blackhole()
        await asyncio.wait_for(running, _LONG_S)
        took = time.monotonic() - began
    proxy.heal()
    return [took]


async def news_to_another_router(stage: Stage) -> list[float]:
    """Between an event's arrival at readers of the one router and of the other."""
    async with tasks_at(stage.fleet.routers[0]) as stub, tasks_at(stage.fleet.routers[1]) as other:
        task_id = await _submit(stub, echo(count=100, delay_ms=10))
        one, two = await asyncio.gather(_arrivals(stub, task_id), _arrivals(other, task_id))
    return [abs(one[sequence] - two[sequence]) for sequence in one]


async def _arrivals(stub: Any, task_id: str) -> dict[int, float]:
    """Read a task to its end; return when each sequence came."""
    arrived: dict[int, float] = {}
    async for response in stub.WatchTask(pb.WatchTaskRequest(task_id=task_id), timeout=_LONG_S):
        for chunk in response.chunks:
            for sequence in range(chunk.first_sequence, chunk.first_sequence + len(chunk.events)):
                arrived[sequence] = time.monotonic()
    return arrived


FIGURES = (
    Figure("R5", "cancel over another router closes the provider's socket", cancel_to_socket, 1.0, 0.1),
    Figure("R6", "a deadline closes the provider's socket", deadline_to_socket, 0.5),
    Figure("R4", "an event reaches readers of the other router", news_to_another_router, 1.0, 0.025),
    Figure("R11", "a submit without PostgreSQL is refused", refusal_without_postgresql, 1.0),
    Figure("R12", "a silent network is noticed and gone round", silence_is_noticed, 15.0),
)


@asynccontextmanager
async def _called(stage: Stage) -> AsyncIterator[tuple[FakeProvider, task_pb2.TaskSpec, Any, Any]]:
    """Open the provider, and a stub for each router."""
    first, second = stage.fleet.routers
    async with FakeProvider(port=stage.provider_port) as provider, tasks_at(first) as stub, tasks_at(second) as other:
        yield provider, echo(llm_calls=1, model="stall:2"), stub, other


async def _submit(stub: Any, spec: task_pb2.TaskSpec) -> str:
    request = pb.SubmitTaskRequest(request_id=str(uuid.uuid4()), spec=spec)
    return str((await stub.SubmitTask(request, timeout=_LONG_S)).task.id)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LONG_S):
        while not holds():
            await asyncio.sleep(0.002)
