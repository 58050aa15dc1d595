"""Storage over gRPC: one commit stream, one claim stream, and unary calls for the rest."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.schedule.v1 import schedule_service_pb2
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_pb2, task_service_pb2
from agentmesh.kit import rpc_client, telemetry
from agentmesh.kit.batching import Batcher, QueueFull
from agentmesh.kit.errors import MeshError, ResourceExhausted, Unavailable, from_status
from agentmesh.kit.wire import TERMINAL
from agentmesh_router.adapters.peers import StoragePeers, unreachable
from agentmesh_router.hub import LogPage, StoredChunk

log = telemetry.logger(__name__)

_CALL_TIMEOUT_S = 10.0
_COMMIT_TIMEOUT_S = 15.0
_MOVE_AFTER_S = 4.0  # where there is another storage to go to
_MAX_BATCH = 64  # larger ones move through the mesh as a convoy, one stage at work at a time
_MAX_BATCH_BYTES = 2 * 1024 * 1024
_MAX_QUEUED = 8192
_OVERLAP_AT = 16  # below this, waiting for a batch in flight beats another commit


class _Exchange:
    """A bidi stream on which each request has one answer, matched by number; reconnects when used again."""

    def __init__(self, peers: StoragePeers, method: str, metadata: rpc_client.Metadata, on_other: Any = None) -> None:
        self._peers = peers
        self._method = method
        self._stub: Any = None
        self._metadata = metadata
        self._on_other = on_other
        self._call: Any = None
        self._begun: Any = None  # the call that a request was written to
        self._reader: asyncio.Task[None] | None = None
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._writing = asyncio.Lock()  # grpc.aio fails a write that begins before the last one has ended

    def next_number(self) -> int:
        """Return a number for the next request, from 1."""
        self._number += 1
        return self._number

    async def ask(self, number: int, request: Any, timeout_s: float) -> Any:
        """Send a request and return its answer; raise Unavailable if the stream breaks first."""
        self.open()
        future = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    async with self._writing:
                        await self._write(request, future)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
                    raise unreachable() from error
                return await future
        except TimeoutError as error:
            self.close()
            raise self._failed() from error
        except Unavailable:
            self._failed()
            raise
        finally:
            self._pending.pop(number, None)

    async def _write(self, request: Any, answer: "asyncio.Future[Any]") -> None:
        """Write a request, or give up when the stream has broken meanwhile."""
        call = self._call
        if call is self._begun:
            await call.write(request)
            return
        # The first write waits until the call has begun: in grpc.aio for ever, if it was cancelled before.
        writing = asyncio.ensure_future(call.write(request))
        try:
            await asyncio.wait({writing, answer}, return_when=asyncio.FIRST_COMPLETED)
            if writing.cancelled():
                raise unreachable()
            if writing.done():
                writing.result()
                self._begun = call
        finally:
            writing.cancel()

    def open(self) -> None:
        """Connect if there is no stream."""
        if self._call is None or self._call.done():
            self._stub = self._peers.tasks
            self._call = getattr(self._stub, self._method)(metadata=self._metadata)
            self._reader = asyncio.create_task(self._read(self._call))

    async def broken(self) -> None:
        """Wait until the stream breaks."""
        if self._reader is not None:
            await asyncio.wait({self._reader})

    def close(self) -> None:
        """Drop the stream; the answers that are waited for become Unavailable."""
        if self._call is not None:
            self._call.cancel()

    def _failed(self) -> MeshError:
        error = unreachable()
        self._peers.failed(self._stub, error)
        return error

    async def _read(self, call: Any) -> None:
        error: MeshError = unreachable()
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                number = getattr(answer, "batch_id", 0) or getattr(answer, "request_number", 0)
                future = self._pending.get(number)
                if future is not None and not future.done():
                    future.set_result(answer)
                elif self._on_other is not None:
                    self._on_other(answer)
            code = await call.code()
            if code is not grpc.StatusCode.OK:
                log.info("storage_stream_ended", code=code.name)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as broken:
            log.info("storage_stream_broken", kind=type(broken).__name__)
        finally:
            call.cancel()
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()


class GrpcStorage:
    """The task store behind its peers. `on_ready` hears which agents have ready work."""

    def __init__(self, peers: StoragePeers, token: str, router_id: str, on_ready: Any) -> None:
        self._peers = peers
        self._metadata = rpc_client.bearer(token)
        self._router_id = router_id
        self._on_ready = on_ready
        self.on_backlog: Callable[[Mapping[str, int]], None] = lambda waiting: None
        self._commits = _Exchange(peers, "CommitStream", self._metadata)
        self._claims = _Exchange(peers, "ClaimTasks", self._metadata, self._hint)
        self._news: Any = None
        self._wait_s = _MOVE_AFTER_S if len(peers) > 1 else _COMMIT_TIMEOUT_S
        peers.on_move.append(self._leave)
        self._batcher: Batcher[pb.Mutation, pb.MutationResult] = Batcher(
            self._send,
            max_items=_MAX_BATCH,
            max_bytes=_MAX_BATCH_BYTES,
            size_of=pb.Mutation.ByteSize,
            max_queued=_MAX_QUEUED,
            max_in_flight=4,
            overlap_at=_OVERLAP_AT,
            ticks=2,
            name="storage",
        )

    async def commit(self, mutation: pb.Mutation) -> pb.MutationResult:
        """See Storage."""
        result = await self.commit_soon(mutation)
        if result.HasField("error"):
            raise from_status(result.error)
        return result

    def commit_soon(self, mutation: pb.Mutation) -> asyncio.Future[pb.MutationResult]:
        """See Storage; raises ResourceExhausted when too much waits."""
        try:
            return self._batcher.submit_nowait(mutation)
        except QueueFull as error:
            raise ResourceExhausted("the router is too far behind", reason="QUEUE_FULL", retry_after_s=0.5) from error

    async def claim(self, offers: Sequence[pb.SlotOffer]) -> list[pb.ClaimedTask]:
        """See Storage."""
        number = self._claims.next_number()
        request = pb.ClaimTasksRequest(request_number=number, offers=offers, router_id=self._router_id)
        answer: pb.ClaimTasksResponse = await self._claims.ask(number, request, self._wait_s)
        return list(answer.tasks)

    async def listen_for_ready(self) -> None:
        """Keep the claim stream open, so that hints come in; returns when it breaks."""
        self._claims.open()
        await self._claims.broken()

    async def get_task(self, tenant: str, task_id: str) -> task_pb2.Task:
        """See Storage."""
        return (await self.get_task_and_trace(tenant, task_id))[0]

    async def get_task_and_trace(self, tenant: str, task_id: str) -> tuple[task_pb2.Task, str]:
        """See Storage."""
        answer = await self._unary("GetTask", pb.GetTaskRequest(tenant=tenant, task_id=task_id))
        return answer.task, answer.traceparent

    async def list_tasks(
        self, tenant: str, request: task_service_pb2.ListTasksRequest
    ) -> task_service_pb2.ListTasksResponse:
        """See Storage."""
        answer = await self._unary("ListTasks", pb.ListTasksRequest(tenant=tenant, request=request))
        return task_service_pb2.ListTasksResponse(tasks=answer.tasks, next_page_token=answer.next_page_token)

    async def read_log(self, tenant: str, task_id: str, after_sequence: int) -> LogPage:
        """See Storage."""
        request = pb.ReadEventsRequest(tenant=tenant, task_id=task_id, after_sequence=after_sequence)
        answer = await self._unary("ReadEvents", request)
        chunks = [StoredChunk(c.attempt, c.first_sequence, c.event_count, c.events) for c in answer.chunks]
        return LogPage(chunks, answer.last_sequence, answer.state in TERMINAL)

    async def read_steps(self, tenant: str, task_id: str, page_token: str) -> tuple[list[runner_pb.StepRecord], str]:
        """See Storage."""
        request = pb.ReadStepsRequest(tenant=tenant, task_id=task_id, page_token=page_token)
        answer = await self._unary("ReadSteps", request)
        return list(answer.steps), answer.next_page_token

    async def get_schedule(self, tenant: str, schedule_id: str) -> schedule_service_pb2.Schedule:
        """See Storage."""
        request = pb.GetScheduleRequest(tenant=tenant, schedule_id=schedule_id)
        schedule: schedule_service_pb2.Schedule = (await self._unary("GetSchedule", request)).schedule
        return schedule

    async def list_schedules(
        self, tenant: str, request: schedule_service_pb2.ListSchedulesRequest
    ) -> schedule_service_pb2.ListSchedulesResponse:
        """See Storage."""
        page = pb.ListSchedulesRequest(tenant=tenant, page_size=request.page_size, page_token=request.page_token)
        answer = await self._unary("ListSchedules", page)
        return schedule_service_pb2.ListSchedulesResponse(
            schedules=answer.schedules, next_page_token=answer.next_page_token
        )

    async def list_agents(self) -> list[task_pb2.Agent]:
        """See Storage."""
        return list((await self._unary("ListAgents", pb.ListAgentsRequest())).agents)

    async def heads(self) -> AsyncIterator[list[pb.TaskHead] | None]:
        """See Storage."""
        request = pb.WatchEventsRequest(router_id=self._router_id)
        stub = self._peers.tasks
        try:
            async with rpc_client.streaming(stub.WatchEvents, request, metadata=self._metadata) as call:
                self._news = call
                await call.wait_for_connection()
                yield None
                async for news in call:
                    if news.missed:
                        yield None
                    yield list(news.heads)
        except asyncio.CancelledError:
            # grpc.aio raises this also for a call that was broken off here, because it went to a peer that was left.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise unreachable() from None

    async def heads_of(self, task_ids: Sequence[str]) -> list[pb.TaskHead]:
        """See Storage."""
        return list((await self._unary("GetHeads", pb.GetHeadsRequest(task_ids=task_ids))).heads)

    async def ping(self) -> bool:
        """Say whether storage answers."""
        await self.list_agents()
        return True

    async def aclose(self) -> None:
        """Commit what waits and close the streams."""
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                await self._batcher.aclose()
        except TimeoutError:
            log.warning("commits_abandoned", queued=self._batcher.queued)
        self._commits.close()
        self._claims.close()

    async def _send(self, mutations: list[pb.Mutation]) -> list[pb.MutationResult | BaseException]:
        number = self._commits.next_number()
        request = pb.CommitStreamRequest(batch_id=number, mutations=mutations, router_id=self._router_id)
        answer: pb.CommitStreamResponse = await self._commits.ask(number, request, self._wait_s)
        return list(answer.results)

    async def _unary(self, method: str, request: Any) -> Any:
        stub = self._peers.tasks
        try:
            return await rpc_client.unary(
                getattr(stub, method), request, timeout_s=_CALL_TIMEOUT_S, metadata=self._metadata
            )
        except MeshError as error:
            self._peers.failed(stub, error)
            raise

    def _leave(self) -> None:
        """Break off what goes to the peer that can't be reached; it is begun anew at the next one."""
        self._commits.close()
        self._claims.close()
        if self._news is not None:
            self._news.cancel()

    def _hint(self, answer: pb.ClaimTasksResponse) -> None:
        if answer.ready_agents:
            self._on_ready(set(answer.ready_agents))
        if answer.HasField("backlog") or not answer.ready_agents:  # an empty one is not on the wire
            self.on_backlog(answer.backlog.waiting)
