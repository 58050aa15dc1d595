"""The fast lane: many tasks over one RunTasks call, for programs that run tasks by the hundred.

The cost of a call is per message, so submits are batched and what comes back is handed out by task id with as
little work per message as possible: this is the path that the benchmarks measure.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.client import artifacts
from agentmesh.client.calls import Caller
from agentmesh.client.event import Event, events_of
from agentmesh.client.repeating import is_worth_repeating
from agentmesh.client.result import Result
from agentmesh.client.ride import Ride
from agentmesh.client.spec import TaskOptions, build_spec
from agentmesh.kit.bare_structlog import structlog
from agentmesh.kit.batching import Batcher
from agentmesh.kit.errors import Canceled, Internal, InvalidRequest, MeshError, Unavailable, from_status
from agentmesh.kit.ids import new_id

log = structlog.get_logger(__name__)

Request = pb.RunTasksRequest

MAX_IN_FLIGHT = 900
"""The router stops reading at 1,000; the rest is room for tasks that were given up but not yet taken out."""
_MAX_BATCH = 32
_MAX_BATCH_BYTES = 1024 * 1024
_MAX_REQUEST_BYTES = 3 * 1024 * 1024
_BROKEN = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError)


class Lane:
    """Runs tasks over one call, which is opened anew when it breaks; made by AsyncClient.lane.

    A task whose acceptance was lost is submitted again under the same request_id, one that is known is watched
    from the last sequence on: nothing runs twice, and no event is missing or doubled.
    """

    def __init__(self, caller: Caller, *, max_in_flight: int) -> None:
        if not 1 <= max_in_flight <= MAX_IN_FLIGHT:
            raise ValueError(f"max_in_flight is 1 to {MAX_IN_FLIGHT}")
        self._caller = caller
        self._room = asyncio.Semaphore(max_in_flight)
        self._by_request: dict[str, Ride] = {}  # every unfinished one
        self._by_task: dict[str, Ride] = {}  # those that were accepted
        self._call: Any = None
        self._generation = 0  # counts calls
        self._writing = asyncio.Lock()  # a call takes one write at a time
        self._wanted = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        # Never full: at most three items of a ride wait at a time.
        self._outbox: Batcher[Ride, None] = Batcher(
            self._write,
            max_items=_MAX_BATCH,
            max_bytes=_MAX_BATCH_BYTES,
            size_of=Ride.request_size,
            max_queued=100_000,
            name="lane",
        )

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep_open(), name="lane")
        self._keeper.add_done_callback(self._keeper_ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        self._fail_all(Canceled("the lane was closed", reason="LANE_CLOSED"))
        await self._outbox.aclose()

    async def run(
        self, agent: str, prompt: str = "", *, request_id: str | None = None, **options: Unpack[TaskOptions]
    ) -> Result:
        """Run a task and return its folded result, also if it FAILED: see Result.raise_for_state.

        Cancelling this call leaves the task running. Raises InvalidRequest and what else a submit can raise,
        ResourceExhausted if the router's queue is full, Unavailable if the mesh stays out of reach.
        """
        ride = await self._begin(agent, prompt, request_id, options)
        try:
            await ride.ended
        finally:
            self._end(ride)
        return Result(ride.task_id, ride.log)

    async def stream(
        self, agent: str, prompt: str = "", *, request_id: str | None = None, **options: Unpack[TaskOptions]
    ) -> AsyncGenerator[Event, None]:
        """Run a task and yield its events, each once and in order. Raises as `run`.

        A reader that falls behind by 1,000 chunks is taken out of the call and read again from the server, so that
        it neither slows the other tasks nor fills the memory.
        """
        ride = await self._begin(agent, prompt, request_id, options, streamed=True)
        try:
            while True:
                chunks = await ride.take()
                for event in events_of(chunks):
                    yield event
                if not chunks:
                    return
                if ride.paused:
                    ride.paused = False
                    self._post(ride)
        finally:
            self._end(ride)

    @property
    def accepted(self) -> int:
        """Number of unfinished tasks that the mesh has accepted."""
        return len(self._by_task)

    # -- one task -----------------------------------------------------------------------------------------

    async def _begin(
        self, agent: str, prompt: str, request_id: str | None, options: TaskOptions, *, streamed: bool = False
    ) -> Ride:
        if self._keeper is None:
            raise RuntimeError("the lane is not open: use it as `async with client.lane() as lane:`")
        uploaded: Sequence[str] = ()
        if options.get("files"):
            sent = [await artifacts.upload(self._caller, f, name=None, media_type=None) for f in options["files"]]
            uploaded = [artifact.artifact_id for artifact in sent]
        request_id = request_id or new_id()
        submit = Request.Submit(request_id=request_id, spec=build_spec(agent, prompt, options, uploaded))
        ride = Ride(submit, streamed=streamed)
        if ride.size > _MAX_REQUEST_BYTES:
            # One such message would break the call, and with it all tasks of the lane, again and again.
            raise InvalidRequest("a field is wrong", violations=[("spec", "must be at most 3 MiB; upload larger data")])
        await self._room.acquire()
        if request_id in self._by_request:
            self._room.release()
            raise InvalidRequest(
                "a field is wrong", violations=[("request_id", "is in use by an unfinished task of this lane")]
            )
        self._by_request[request_id] = ride
        self._wanted.set()
        self._post(ride)
        return ride

    def _end(self, ride: Ride) -> None:
        self._room.release()
        self._by_task.pop(ride.task_id, None)
        if ride.finished:
            self._by_request.pop(ride.submit.request_id, None)
            return
        ride.abandoned = True
        if ride.task_id:
            self._by_request.pop(ride.submit.request_id, None)
        self._post(ride)  # without an id it stays known, until it can be taken out of the call

    def _post(self, ride: Ride) -> None:
        if self._keeper is not None:
            self._outbox.submit_nowait(ride)

    # -- out ----------------------------------------------------------------------------------------------

    async def _write(self, rides: list[Ride]) -> list[None]:
        """Send what each ride needs now; on a broken call nothing, because the next one begins with all of it."""
        call = self._call
        if call is not None:
            submits, watches, unwatches = self._needs(rides)
            try:
                async with self._writing:
                    # A message of its own, because the router reads a message's watches before its unwatches.
                    if unwatches:
                        await call.write(Request(unwatches=unwatches))
                    if submits or watches:
                        await call.write(Request(submits=submits, watches=watches))
            except _BROKEN:
                self._forget(call)
            except asyncio.CancelledError:
                # grpc.aio raises this also when the peer has canceled the call.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._forget(call)
        return [None] * len(rides)

    def _forget(self, call: Any) -> None:
        """Write no more to a call that broke; its reader learns why, and opens the next."""
        if self._call is call:
            self._call = None

    def _needs(self, rides: list[Ride]) -> tuple[list[Request.Submit], list[Request.Watch], list[Request.Unwatch]]:
        submits: list[Request.Submit] = []
        watches: list[Request.Watch] = []
        unwatches: list[Request.Unwatch] = []
        for ride in rides:
            if ride.abandoned and not ride.task_id:
                if ride.generation < 0:  # never sent: nobody knows of it
                    self._by_request.pop(ride.submit.request_id, None)
            elif ride.abandoned or ride.paused:
                unwatches.append(Request.Unwatch(task_id=ride.task_id))
            elif ride.generation != self._generation:
                ride.generation = self._generation
                submits.append(ride.submit)
            elif ride.task_id and not ride.finished:
                unwatches.append(Request.Unwatch(task_id=ride.task_id))
                watches.append(ride.watch())
        return submits, watches, unwatches

    async def _resend_all(self, call: Any) -> None:
        """Begin a new call with everything that is unfinished; what comes meanwhile goes through the outbox."""
        self._generation += 1
        self._call = call
        for ride in [ride for ride in self._by_request.values() if ride.abandoned]:
            del self._by_request[ride.submit.request_id]
        messages: list[Request] = []
        message, size = Request(), 0
        for ride in self._by_request.values():
            ride.generation = self._generation
            if ride.finished or ride.paused:
                continue
            if size > _MAX_BATCH_BYTES:
                messages.append(message)
                message, size = Request(), 0
            if ride.task_id:
                message.watches.append(ride.watch())
                size += len(ride.task_id)
            else:
                message.submits.append(ride.submit)
                size += ride.size
        try:
            async with self._writing:
                for full in (*messages, message):
                    await call.write(full)
        except (grpc.aio.UsageError, asyncio.InvalidStateError):
            self._forget(call)  # it has ended already: reading it says why

    # -- in -----------------------------------------------------------------------------------------------

    async def _keep_open(self) -> None:
        """Hold a call open while there are tasks, until cancelled."""
        backoff = self._caller.backoff()
        while True:
            await self._wanted.wait()
            failure: MeshError = Unavailable("the call ended before its tasks", reason="STREAM_INTERRUPTED")
            heard = False
            try:
                async with self._caller.streaming("tasks", "RunTasks", None) as call:
                    await self._resend_all(call)
                    async for response in call:
                        heard = True
                        self._hear(response)
            except MeshError as error:
                failure = error
            finally:
                self._call = None
            if heard:
                self._caller.heard()
                backoff = self._caller.backoff()
            if not self._by_request:
                self._wanted.clear()
                continue
            try:
                if not is_worth_repeating(failure):
                    raise failure
                await backoff.wait(failure)
            except MeshError as error:
                self._wanted.clear()
                self._fail_all(error)
                backoff = self._caller.backoff()

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        """Leave nobody waiting if a bug ended the keeper."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            self._keeper = None
            log.error("lane_broke", exc_info=error)
            self._fail_all(Internal("the lane broke; open another one", reason="LANE_BROKEN"))

    def _fail_all(self, error: MeshError) -> None:
        for ride in self._by_request.values():
            ride.fail(error)
        self._by_request.clear()
        self._by_task.clear()

    def _hear(self, response: pb.RunTasksResponse) -> None:
        for accepted in response.accepted:
            ride = self._by_request.get(accepted.request_id)
            if ride is None:
                continue
            ride.task_id = accepted.task_id
            if ride.abandoned:
                del self._by_request[accepted.request_id]
                self._post(ride)
            else:
                self._by_task[accepted.task_id] = ride
        by_task = self._by_task
        for chunk in response.chunks:
            ride = by_task.get(chunk.task_id)
            if ride is not None and not ride.add(chunk):
                self._post(ride)  # it has to be taken out, or watched again from where it was
        for refused in response.refused:
            ride = self._by_request.get(refused.request_id) or by_task.get(refused.task_id)
            if ride is not None:
                self._refused(ride, from_status(refused.error))

    def _refused(self, ride: Ride, error: MeshError) -> None:
        if ride.abandoned:
            self._by_request.pop(ride.submit.request_id, None)
            return
        if is_worth_repeating(error):
            if ride.backoff is None:
                ride.backoff = self._caller.backoff()
            try:
                wait_s = ride.backoff.next_wait_s(error)
            except MeshError:
                ride.fail(error)
                return
            asyncio.get_running_loop().call_later(wait_s, self._repeat, ride, ride.generation)
            return
        ride.fail(error)

    def _repeat(self, ride: Ride, generation: int) -> None:
        # A new call has begun with this ride: twice on one call would be watched twice.
        if ride.generation == generation and not ride.finished and not ride.abandoned:
            if not ride.task_id:
                ride.generation = -1
            self._post(ride)
