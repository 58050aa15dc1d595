"""The handlers of TaskStoreService."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit.batching import QueueFull
from agentmesh.kit.clock import Clock
from agentmesh.kit.errors import InvalidRequest, MeshError, ResourceExhausted
from agentmesh.kit.rpc_server import Call
from agentmesh_storage import schedule_wire, wire
from agentmesh_storage.domain import Offer, Step
from agentmesh_storage.service import Outcomes, TaskKeeper

_PAGE_BYTES = 256 * 1024
_MAX_PAGE_BYTES = 1024 * 1024
_PIPELINE = 64  # batches of one stream that may wait for their COMMIT
_MAX_HEADS = 10_000
_FIRST_STEP = -(2**62)  # inherited steps have negative sequences


class TaskStoreApi:
    """Answers routers."""

    def __init__(self, keeper: TaskKeeper, clock: Clock) -> None:
        self._keeper = keeper
        self._store = keeper.store
        self._clock = clock

    async def commit(self, request: pb.CommitRequest, call: Call) -> pb.CommitResponse:
        """Apply one batch."""
        mutations = [wire.from_mutation(m, request.router_id) for m in request.mutations]
        outcomes = await self._keeper.commit(mutations)
        return pb.CommitResponse(results=map(wire.to_result, outcomes), clock_ms=self._clock.now_ms())

    async def commit_stream(
        self, requests: AsyncIterator[pb.CommitStreamRequest], call: Call
    ) -> AsyncIterator[pb.CommitStreamResponse]:
        """Apply batches as they come; several may be in one transaction. One that fails is answered as failed."""
        pipeline: asyncio.Queue[tuple[int, int, asyncio.Future[Outcomes]] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_PIPELINE)

        async def read() -> None:
            router_id = ""
            try:
                async for request in requests:
                    router_id = router_id or request.router_id
                    mutations = [wire.from_mutation(m, router_id) for m in request.mutations]
                    try:
                        pending = self._keeper.commit_soon(mutations)
                    except QueueFull as error:
                        raise ResourceExhausted(
                            "storage is too far behind", reason="STORAGE_OVERLOADED", retry_after_s=0.2
                        ) from error
                    pipeline.put_nowait((request.batch_id, len(mutations), pending))
                    await room.acquire()
            finally:
                pipeline.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (entry := await pipeline.get()) is not None:
                batch_id, size, pending = entry
                try:
                    outcomes = await pending
                except MeshError as error:
                    # The others on this stream are not to blame: ending it would leave them unanswered, too.
                    outcomes = [error] * size
                room.release()
                yield pb.CommitStreamResponse(
                    batch_id=batch_id, results=map(wire.to_result, outcomes), clock_ms=self._clock.now_ms()
                )
            await reader
        finally:
            reader.cancel()

    async def claim_tasks(
        self, requests: AsyncIterator[pb.ClaimTasksRequest], call: Call
    ) -> AsyncIterator[pb.ClaimTasksResponse]:
        """Answer claims, and say in between which agents have ready work."""
        answers: asyncio.Queue[pb.ClaimTasksResponse] = asyncio.Queue(_PIPELINE)

        async def read() -> None:
            async for request in requests:
                await answers.put(await self._claim(request))

        async def hint() -> None:
            while True:
                agents, backlog = await watcher.hints()
                hints = pb.ClaimTasksResponse(ready_agents=sorted(agents))
                if backlog is not None:
                    hints.backlog.waiting.update(backlog)
                await answers.put(hints)

        with self._keeper.watching("") as watcher:
            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(read()), asyncio.create_task(hint())]
            try:
                while True:
                    getter = asyncio.create_task(answers.get())
                    tasks[2:] = [getter]
                    await asyncio.wait({getter, tasks[0]}, return_when=asyncio.FIRST_COMPLETED)
                    if not getter.done():
                        tasks[0].result()
                        return
                    yield getter.result()
            finally:
                for task in tasks:
                    task.cancel()

    async def _claim(self, request: pb.ClaimTasksRequest) -> pb.ClaimTasksResponse:
        offers = [Offer(o.agent, o.agent_version, o.incarnation, o.slots, request.router_id) for o in request.offers]
        response = pb.ClaimTasksResponse(request_number=request.request_number)
        room = _MAX_PAGE_BYTES
        for claimed in await self._keeper.claim(offers):
            task = claimed.task
            steps: list[Step] = []
            token = ""
            if task.attempt > 1 or task.retry_of:
                token = str(_FIRST_STEP)
                if room > 0:
                    steps = await self._store.read_steps(task.tenant, task.id, _FIRST_STEP, min(room, _PAGE_BYTES))
                    token = str(steps[-1].sequence) if steps else ""
                    room -= sum(len(step.record) for step in steps)
            response.tasks.append(wire.to_claimed(claimed, steps, token, self._clock.now_ms()))
        return response

    async def get_task(self, request: pb.GetTaskRequest, call: Call) -> pb.GetTaskResponse:
        """Return a task."""
        task = await self._store.get_task(request.tenant, request.task_id)
        return pb.GetTaskResponse(task=wire.to_task(task), traceparent=task.traceparent)

    async def list_tasks(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        """Return a page of tasks."""
        page = await self._store.list_tasks(wire.from_list_request(request.tenant, request.request))
        return pb.ListTasksResponse(tasks=map(wire.to_task, page.tasks), next_page_token=page.next_after)

    async def read_events(self, request: pb.ReadEventsRequest, call: Call) -> pb.ReadEventsResponse:
        """Return chunks of a log."""
        limit = min(request.max_bytes, _MAX_PAGE_BYTES) if request.max_bytes > 0 else _PAGE_BYTES
        chunks, last, state = await self._store.read_chunks(
            request.tenant, request.task_id, request.after_sequence, limit
        )
        return pb.ReadEventsResponse(
            chunks=map(wire.to_chunk, chunks),
            last_sequence=last,
            state=int(state),  # type: ignore[arg-type]
        )

    async def read_steps(self, request: pb.ReadStepsRequest, call: Call) -> pb.ReadStepsResponse:
        """Return a page of a journal."""
        after = int(request.page_token) if request.page_token else _FIRST_STEP
        steps = await self._store.read_steps(request.tenant, request.task_id, after, _MAX_PAGE_BYTES)
        token = str(steps[-1].sequence) if steps else ""
        return pb.ReadStepsResponse(steps=map(wire.to_step, steps), next_page_token=token)

    async def watch_events(self, request: pb.WatchEventsRequest, call: Call) -> AsyncIterator[pb.WatchEventsResponse]:
        """Tell a router which logs grew."""
        with self._keeper.watching(request.router_id) as watcher:
            while True:
                heads, missed = await watcher.heads()
                yield pb.WatchEventsResponse(heads=map(wire.to_head, heads), missed=missed)

    async def get_heads(self, request: pb.GetHeadsRequest, call: Call) -> pb.GetHeadsResponse:
        """Say where logs end."""
        if len(request.task_ids) > _MAX_HEADS:
            raise InvalidRequest("a field is wrong", violations=[("task_ids", f"must be at most {_MAX_HEADS}")])
        return pb.GetHeadsResponse(heads=map(wire.to_head, await self._store.heads(request.task_ids)))

    async def get_schedule(self, request: pb.GetScheduleRequest, call: Call) -> pb.GetScheduleResponse:
        """Return a schedule."""
        schedule = await self._store.get_schedule(request.tenant, request.schedule_id)
        return pb.GetScheduleResponse(schedule=schedule_wire.to_schedule(schedule))

    async def list_schedules(self, request: pb.ListSchedulesRequest, call: Call) -> pb.ListSchedulesResponse:
        """Return a page of schedules."""
        page_size = wire.page_size_of(request.page_size)
        page = await self._store.list_schedules(request.tenant, page_size, request.page_token)
        schedules = map(schedule_wire.to_schedule, page.schedules)
        return pb.ListSchedulesResponse(schedules=schedules, next_page_token=page.next_after)

    async def list_agents(self, request: pb.ListAgentsRequest, call: Call) -> pb.ListAgentsResponse:
        """Return every agent that was ever announced."""
        agents = await self._store.list_agents()
        return pb.ListAgentsResponse(agents=map(task_pb2.Agent.FromString, agents))
