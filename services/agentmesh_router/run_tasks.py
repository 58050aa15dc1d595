"""One RunTasks stream: many tasks in, the events of all of them out."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from itertools import islice
from types import TracebackType

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.kit import telemetry, trace_context
from agentmesh.kit.errors import Internal, InvalidRequest, MeshError, NotFound, to_status
from agentmesh.kit.ids import is_id
from agentmesh.kit.rpc_server import Call
from agentmesh_router.accepting import Accepted
from agentmesh_router.hub import Subscription
from agentmesh_router.service import TaskEngine

log = telemetry.logger(__name__)

MAX_UNFINISHED = 1000
_MAX_ANSWERS = 1000
_MAX_MESSAGE_BYTES = 1024 * 1024
_MAX_READS = 16
_RETRY_READ_S = 0.2

Response = pb.RunTasksResponse


class RunTasksStream:
    """Stops reading while 1,000 of its tasks are unfinished or its answers are not read; never refuses by closing."""

    def __init__(self, engine: TaskEngine, call: Call) -> None:
        self._engine = engine
        self._call = call
        self._answers: list[bytes] = []
        self._subscriptions: dict[str, Subscription] = {}
        self._live: set[Subscription] = set()  # those whose task's acceptance was said
        self._dirty: dict[Subscription, None] = {}
        self._dry: dict[Subscription, None] = {}  # whose log has to be read before there is something to take
        self._submitting = 0
        self._read_all = False
        self._woken = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._log_reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "RunTasksStream":
        self._engine.at_drain.add(self._woken.set)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.at_drain.discard(self._woken.set)
        for reader in (self._reader, self._log_reader):
            if reader is not None:
                reader.cancel()
        for subscription in self._subscriptions.values():
            self._engine.hub.remove(subscription)

    async def converse(self, requests: AsyncIterator[pb.RunTasksRequest]) -> AsyncIterator[bytes]:
        """Yield serialised responses until the client has said all and every task has ended."""
        self._reader = asyncio.create_task(self._read(requests))
        while True:
            await self._woken.wait()
            # Whatever a burst of commits brings shares a message.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._engine.check_open()
            data = self._collect()
            if data:
                yield data
            elif self._read_all and not self._subscriptions and not self._submitting:
                self._reader.result()
                return

    # -- out ----------------------------------------------------------------------------------------------

    def _collect(self) -> bytes:
        self._woken.clear()
        parts: list[bytes] = []
        size = sum(map(len, self._answers))
        while self._dirty and size < _MAX_MESSAGE_BYTES:
            subscription, _ = self._dirty.popitem()
            if subscription.is_dry:
                self._dry[subscription] = None
                continue
            data = subscription.take()
            size += len(data)
            parts.append(data)
            if subscription.done:
                self._drop(subscription)
            elif data and subscription.behind:
                self._dirty[subscription] = None
        if self._dirty:
            self._woken.set()
        else:
            self._read_logs()
        self._room.set()
        answers, self._answers = self._answers, []
        return b"".join(answers + parts)

    def _read_logs(self) -> None:
        """See that the next few logs are read, while all other answers go on."""
        if self._log_reader is not None and self._log_reader.done():
            self._log_reader.result()
            self._log_reader = None
        if self._log_reader is None and self._dry:
            some = list(islice(self._dry, _MAX_READS))
            for subscription in some:
                del self._dry[subscription]
            self._log_reader = asyncio.create_task(self._catch_up_all(some))
            self._log_reader.add_done_callback(lambda _: self._woken.set())

    async def _catch_up_all(self, subscriptions: list[Subscription]) -> None:
        await asyncio.gather(*(self._catch_up(one) for one in subscriptions if one in self._live and one.is_dry))

    async def _catch_up(self, subscription: Subscription) -> None:
        try:
            await subscription.catch_up(self._engine.storage.read_log)
        except NotFound as error:
            self._refuse(error, task_id=subscription.task_id)
            self._drop(subscription)
        except MeshError as error:
            log.info("log_not_read", task_id=subscription.task_id, reason=error.reason)
            asyncio.get_running_loop().call_later(_RETRY_READ_S, self._wake, subscription)
        else:
            self._wake(subscription)

    def _wake(self, subscription: Subscription) -> None:
        if subscription in self._live:
            self._dirty[subscription] = None
            self._woken.set()

    def _answer(self, response: Response) -> None:
        self._answers.append(response.SerializeToString())
        self._woken.set()

    def _refuse(self, error: MeshError, *, request_id: str = "", task_id: str = "") -> None:
        refused = Response.Refused(request_id=request_id, task_id=task_id, error=to_status(error))
        self._answer(Response(refused=[refused]))

    # -- in -----------------------------------------------------------------------------------------------

    async def _read(self, requests: AsyncIterator[pb.RunTasksRequest]) -> None:
        try:
            async for request in requests:
                for submit in request.submits:
                    await self._wait_for_room()
                    self._submit(submit)
                for watch in request.watches:
                    await self._wait_for_room()
                    self._watch(watch.task_id, watch.after_sequence)
                for unwatch in request.unwatches:
                    subscription = self._subscriptions.get(unwatch.task_id)
                    if subscription is not None:
                        self._drop(subscription)
                if request.cancels or request.inputs:
                    await self._steer(request)
        finally:
            self._read_all = True
            self._woken.set()

    async def _wait_for_room(self) -> None:
        while len(self._subscriptions) + self._submitting >= MAX_UNFINISHED or len(self._answers) >= _MAX_ANSWERS:
            self._room.clear()
            await self._room.wait()

    def _submit(self, submit: pb.RunTasksRequest.Submit) -> None:
        if not submit.request_id:
            error = InvalidRequest("a field is wrong", violations=[("request_id", "is needed in RunTasks")])
            self._refuse(error)
            return
        made: list[Subscription] = []
        # Tasks of a stream that belongs to no trace have nothing to do with each other.
        traceparent = self._call.traceparent if self._call.received_traceparent else trace_context.root_context()

        def subscribe(task_id: str) -> Subscription:
            subscription = Subscription(self._call.tenant, task_id, 0, self._wake)
            subscription.start_live()
            self._engine.hub.add(subscription)
            made.append(subscription)
            return subscription

        try:
            accepting = self._engine.accept(
                self._call.tenant, submit.request_id, submit.spec, traceparent, subscribe=subscribe
            )
        except MeshError as error:
            self._refuse(error, request_id=submit.request_id)
            return
        self._submitting += 1
        accepting.add_done_callback(partial(self._accepted, submit.request_id, made[0]))

    def _accepted(self, request_id: str, subscription: Subscription, future: "asyncio.Future[Accepted]") -> None:
        self._submitting -= 1
        error = future.exception()
        if error is not None:
            known = error if isinstance(error, MeshError) else Internal("something went wrong inside the mesh")
            self._refuse(known, request_id=request_id)
            self._engine.hub.remove(subscription)  # its commit may still succeed
            return
        accepted = future.result()
        self._answer(Response(accepted=[Response.Accepted(request_id=request_id, task_id=accepted.task_id)]))
        if accepted.task_id in self._subscriptions:
            self._engine.hub.remove(subscription)
        elif accepted.result.existed:
            self._watch(accepted.task_id, 0)
        else:
            self._follow(subscription)

    def _watch(self, task_id: str, after_sequence: int) -> None:
        if not is_id(task_id) or after_sequence < 0:
            self._refuse(NotFound("there is no such task", reason="TASK_NOT_FOUND"), task_id=task_id)
        elif task_id not in self._subscriptions:
            subscription = Subscription(self._call.tenant, task_id, after_sequence, self._wake)
            self._engine.hub.add(subscription)
            self._follow(subscription)

    def _follow(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.task_id] = subscription
        self._live.add(subscription)
        self._wake(subscription)

    def _drop(self, subscription: Subscription) -> None:
        self._engine.hub.remove(subscription)
        self._live.discard(subscription)
        self._dirty.pop(subscription, None)
        self._dry.pop(subscription, None)
        if self._subscriptions.get(subscription.task_id) is subscription:
            del self._subscriptions[subscription.task_id]
        self._room.set()
        self._woken.set()

    async def _steer(self, request: pb.RunTasksRequest) -> None:
        for cancel in request.cancels:
            try:
                await self._engine.cancel(self._call.tenant, cancel.task_id)
            except MeshError as error:
                self._refuse(error, task_id=cancel.task_id)
        for given in request.inputs:
            try:
                await self._engine.give_input(self._call.tenant, given.task_id, given.input_id, given.message)
            except MeshError as error:
                self._refuse(error, task_id=given.task_id)
