"""The clients of a chaos run: they submit, watch and cancel as the shipped client does, and note what they saw."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import grpc

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.client import AsyncClient, Event, Lane, Result
from agentmesh.kit.errors import MeshError, WrongState
from agentmesh.kit.rpc_client import open_channel
from tests.chaos.orders import Order, orders
from tests.support.history import History, Reading
from tests.support.reading import text_of

_BREAKS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_WATCH_S = 10.0
_RECENT = 50


class Load:
    """Runs orders over every router until it is told to stop; `errors` are what the shipped client raised."""

    def __init__(self, routers: Sequence[str], history: History, random: Random) -> None:
        self.history = history
        self.errors: list[str] = []
        self.asked = 0
        self._routers = list(routers)
        self._random = random
        self._orders = orders(random)
        self._progress: dict[str, int] = {}  # the newest sequence that somebody saw, by task
        self._stopping = asyncio.Event()

    async def run(self, *, workers: int = 8, readers: int = 3) -> None:
        """Ask for tasks until `stop`, then see those to their end that were begun."""
        async with AsyncExitStack() as stack:
            clients, lanes = [], []
            for first in range(len(self._routers)):
                addresses = self._routers[first:] + self._routers[:first]
                client = await stack.enter_async_context(AsyncClient(addresses))
                clients.append(client)
                lanes.append(await stack.enter_async_context(client.lane()))
            reading = [asyncio.create_task(self._read_anywhere(number)) for number in range(readers)]
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(workers):
                        group.create_task(self._work(f"client-{number}", clients, lanes, number))
            finally:
                for task in reading:
                    task.cancel()
                await asyncio.gather(*reading, return_exceptions=True)
            for task in reading:
                if not task.cancelled() and (error := task.exception()):
                    self.errors.append(f"reader: {error!r}")

    def stop(self) -> None:
        """Begin no more tasks."""
        self._stopping.set()

    # -- the shipped client ---------------------------------------------------------------------------------

    async def _work(self, name: str, clients: list[AsyncClient], lanes: list[Lane], number: int) -> None:
        while not self._stopping.is_set():
            order = next(self._orders)
            self.asked += 1
            self.history.submit(order.request_id, order.expected)
            try:
                await self._ask(name, order, clients, lanes, number % len(clients))
            except MeshError as error:
                self.errors.append(f"{order.way} {order.request_id}: {error!r} {error.reason}")

    async def _ask(self, name: str, order: Order, clients: list[AsyncClient], lanes: list[Lane], at: int) -> None:
        client, lane = clients[at], lanes[at]
        options = _options(order)
        match order.way:
            case "stream":
                await self._follow(name, order, client, client.stream(**options))
            case "lane-stream":
                await self._follow(name, order, client, lane.stream(**options))
            case "lane-run":
                result = await lane.run(**options)
                self.history.accept(order.request_id, result.task_id)
                self._note(result)
            case "submit":
                task = await client.submit(**options)
                self.history.accept(order.request_id, task.id)
                self._progress[task.id] = task.last_sequence
                self._note(await client.result(task.id))
            case "twice":
                tasks = await asyncio.gather(*(each.submit(**options) for each in (*clients, *clients)))
                for task in tasks:
                    self.history.accept(order.request_id, task.id)
                self._note(await client.result(tasks[0].id))

    async def _follow(self, name: str, order: Order, client: AsyncClient, events: AsyncIterator[Event]) -> None:
        reading: Reading | None = None
        async for event in events:
            if reading is None:
                self.history.accept(order.request_id, event.task_id)
                reading = self.history.read(name, event.task_id)
            reading.add(event.sequence, event.attempt, event.event)
            self._progress[event.task_id] = event.sequence
            if event.sequence == order.cancel_at:
                try:
                    await client.cancel(event.task_id)
                except WrongState:
                    continue  # it ended in another way before

    def _note(self, result: Result) -> None:
        said = [text_of(event.event) for event in result.events if event.name == "message"]
        self.history.result(result.task_id, result.state, said)
        self._progress[result.task_id] = result.events[-1].sequence

    # -- readers over raw gRPC, which come and go ---------------------------------------------------------------

    async def _read_anywhere(self, number: int) -> None:
        async with AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(open_channel(address)) for address in self._routers]
            stubs: list[Any] = [pb_grpc.TaskServiceStub(channel) for channel in channels]
            while True:
                recent = list(self._progress.items())[-_RECENT:]
                if recent:
                    task_id, newest = self._random.choice(recent)
                    await self._read(f"reader-{number}", self._random.choice(stubs), task_id, newest)
                await asyncio.sleep(0.02)

    async def _read(self, name: str, stub: Any, task_id: str, newest: int) -> None:
        after = self._random.randint(0, newest)
        chunks = self._random.choice((1, 3, 10, 1000))
        reading = self.history.read(name, task_id, after)
        call = stub.WatchTask(pb.WatchTaskRequest(task_id=task_id, after_sequence=after), timeout=_WATCH_S)
        try:
            async for response in call:
                for chunk in response.chunks:
                    reading.add_chunk(chunk)
                    self._progress[task_id] = max(self._progress[task_id], reading.seen[-1][0])
                    chunks -= 1
                if chunks <= 0:
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() not in _BREAKS:
                self.errors.append(f"{name} on {task_id} after {after}: {error.code().name} {error.details()}")
        finally:
            call.cancel()


def _options(order: Order) -> dict[str, Any]:
    options: dict[str, Any] = {"agent": order.agent, "prompt": "hello", "request_id": order.request_id}
    if order.parameters:
        options["parameters"] = order.parameters
    if order.delay_s:
        options["start_time"] = datetime.now(UTC) + timedelta(seconds=order.delay_s)
    return options
