"""An attempt that runs in this runner, and the mesh as it sees it."""

import asyncio
import copy
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import names
from agentmesh.kit.clock import duration
from agentmesh.kit.errors import Canceled, DeadlineExceeded, InvalidRequest, Unauthenticated, Unreachable, from_status
from agentmesh.kit.wire import TERMINAL
from agentmesh_runner.attempt_log import AttemptLog
from agentmesh_runner.attempt_spans import AttemptSpan
from agentmesh_runner.lease import Lease
from agentmesh_runner.ports import Artifacts, Models
from agentmesh_runner.stopping import RESUMED

_T = TypeVar("_T")

_MAX_CALL_S = 3600.0
_LEAST_TIMEOUT_S = 0.001
_MAX_SPAWN_BYTES = names.MAX_BATCH_BYTES


class Running:
    """One attempt: its log, what it waits for, and the way to stop it. Implements the SDK's port Mesh.

    `speak` is called when there is something to send for it. What costs or changes something outside of the log is
    done only while `lease` lasts; without one, nobody else can have the task. Times are the lease's.
    """

    def __init__(
        self,
        assignment: pb.Assignment,
        models: Models,
        artifacts: Artifacts,
        speak: Callable[["Running"], None],
        lease: Lease | None = None,
        span: AttemptSpan | None = None,
    ) -> None:
        self.assignment = assignment
        self.span = span
        self.task_id = assignment.task_id
        self.attempt = assignment.attempt
        self._token = assignment.token
        self._token_renewed = asyncio.Event()
        self.log = AttemptLog(assignment.task_id, assignment.attempt, span.context if span else "")
        self.stop_reason: int = 0
        self.waiting_since: float | None = None
        self.awaited: Sequence[str] = ()
        self.spawns: list[pb.SpawnChild] = []
        self.waiting_news: bool | None = None
        self.task: asyncio.Task[None] | None = None
        self.lease = lease or Lease.endless()
        self.last_said = self.lease.now()
        left = assignment.time_left
        self.deadline = (
            self.last_said + left.seconds + left.nanos / 1e9 if assignment.HasField("time_left") else math.inf
        )
        self.journal_complete = asyncio.Event()
        if not assignment.journal_continues:
            self.journal_complete.set()
        self._models = models
        self._artifacts = artifacts
        self._speak = speak
        self._keys: set[str] = set()  # of model calls that may be under way
        self._cancels: set[asyncio.Task[None]] = set()
        self._spawning: dict[str, tuple[asyncio.Future[task_pb2.Task], task_pb2.TaskSpec]] = {}
        self._children: dict[str, asyncio.Future[task_pb2.Task]] = {}
        self._step_of: dict[str, str] = {}
        self._inputs: dict[str, asyncio.Future[types_pb2.Message]] = {}

    @property
    def traceparent(self) -> str:
        """The trace context of what the attempt does."""
        return self.span.context if self.span is not None else self.assignment.traceparent

    @property
    def takes_slot(self) -> bool:
        """Whether the attempt is at work: it has not ended, and does not wait."""
        return not self.log.ended and self.waiting_since is None

    @property
    def token(self) -> str:
        """The newest token of the attempt."""
        return self._token

    @token.setter
    def token(self, token: str) -> None:
        self._token = token
        self._token_renewed.set()
        self._token_renewed = asyncio.Event()

    @property
    def time_left_s(self) -> float:
        """How long the attempt may go on; endless for a task without a timeout."""
        return self.deadline - self.lease.now()

    def assignment_now(self) -> pb.Assignment:
        """Return the assignment with the time that is left by now."""
        if self.deadline < math.inf:
            self.assignment.time_left.CopyFrom(duration(max(0.0, self.time_left_s)))
        return self.assignment

    # -- the port Mesh --------------------------------------------------------------------------------------

    async def say(self, events: Sequence[events_pb2.TaskEvent], steps: Sequence[pb.StepRecord] = ()) -> None:
        """See Mesh."""
        await self.log.say(events, steps)
        if steps and self.span is not None:
            self.span.said(events)
        self._said()

    async def say_encoded(self, events: bytes, count: int, steps: Sequence[pb.StepRecord]) -> None:
        """Say what a host process has serialised already."""
        await self.log.say_encoded(events, count, steps)
        if steps and self.span is not None:
            self.span.said(events_pb2.EventList.FromString(events).events)
        self._said()

    async def settled(self) -> None:
        """See Mesh."""
        await self.log.settled()

    async def generate(self, request: llm_pb.GenerateRequest) -> AsyncGenerator[llm_pb.Delta, None]:
        """See Mesh."""
        key = request.idempotency_key
        self._keys.add(key)
        try:
            while True:
                self._check_may_begin()
                token = self.token
                stream = self._models.generate(
                    request,
                    token=token,
                    traceparent=self.traceparent,
                    timeout_s=min(_MAX_CALL_S, self.time_left_s),
                )
                try:
                    async with aclosing(stream):
                        async for delta in stream:
                            yield delta
                    break
                except Unauthenticated as error:
                    await self._after_renewal(token, error)
            self._keys.discard(key)
        except Unreachable:
            raise  # a proxy that can't be reached may go on with the call
        except Exception:
            self._keys.discard(key)
            raise

    async def store_artifact(self, name: str, media_type: str, data: bytes) -> types_pb2.Artifact:
        """See Mesh."""
        return await self._with_token(lambda token: self._artifacts.store(name, media_type, data, token=token))

    async def load_artifact(self, artifact_id: str) -> tuple[types_pb2.Artifact, bytes]:
        """See Mesh."""
        return await self._with_token(lambda token: self._artifacts.load(artifact_id, token=token))

    async def spawn(self, step_key: str, spec: task_pb2.TaskSpec) -> task_pb2.Task:
        """See Mesh; the child gets no more time than its parent has left."""
        self._check_may_begin()
        if spec.ByteSize() > _MAX_SPAWN_BYTES:
            raise InvalidRequest("the child's task is larger than 1 MiB: give it artifacts", reason="SPAWN_TOO_LARGE")
        future, _ = self._spawning.setdefault(step_key, (_future(), spec))
        self._ask_for(step_key, spec)
        return await asyncio.shield(future)

    async def child_ended(self, task_id: str) -> task_pb2.Task:
        """See Mesh."""
        return await asyncio.shield(self._children.setdefault(task_id, _future()))

    async def input_given(self, input_id: str) -> types_pb2.Message:
        """See Mesh."""
        return await asyncio.shield(self._inputs.setdefault(input_id, _future()))

    def waiting(self, awaited_task_ids: Sequence[str] | None) -> None:
        """See Mesh."""
        waits = awaited_task_ids is not None
        self.awaited = awaited_task_ids or ()
        if waits != (self.waiting_since is not None):
            self.waiting_since = self.lease.now() if waits else None
            self.waiting_news = waits
            self._speak(self)

    # -- what the router tells ------------------------------------------------------------------------------

    def told_of_child(self, update: pb.ChildUpdate) -> None:
        """Take in that a child was spawned, refused, or has ended."""
        if update.step_key in self._spawning:
            spawning, _ = self._spawning[update.step_key]
            if update.HasField("error") and not spawning.done():
                spawning.set_exception(from_status(update.error))
            _resolve(spawning, update.child)
            self._step_of[update.child.id] = update.step_key
        if update.child.state in TERMINAL:
            _resolve(self._children.setdefault(update.child.id, _future()), update.child)

    def told_input(self, delivery: pb.DeliverInput) -> None:
        """Take in the answer to a question."""
        _resolve(self._inputs.setdefault(delivery.input_id, _future()), delivery.message)

    def resume(self) -> None:
        """Say again what a lost router may not have heard."""
        asked = {spawn.step_key for spawn in self.spawns}
        # The answer to a repeated spawn is the child as it stands, which tells also whether it has ended.
        awaited = {self._step_of.get(task_id) for task_id, ended in self._children.items() if not ended.done()}
        for step_key, (future, spec) in self._spawning.items():
            if step_key not in asked and (not future.done() or step_key in awaited):
                self._ask_for(step_key, spec)
        self.waiting_news = True if self.waiting_since is not None else None

    def acked(self, offset: int) -> None:
        """Take in what is durable."""
        self.log.ack(offset)
        self.last_said = self.lease.now()  # that storage took long is not the agent's silence

    def stop(self, reason: int) -> None:
        """Stop the agent; its task ends with CancelledError."""
        if self.task is not None and not self.log.ended and not self.stop_reason:
            self.stop_reason = reason
            self.task.cancel()
            if reason not in RESUMED:
                self._cancel_calls()  # now: a host process may take its time to stop

    async def stop_calls(self) -> None:
        """Stop the model calls that the attempt has under way."""
        self._cancel_calls()
        if self._cancels:
            await asyncio.wait(self._cancels)

    def end(self, outcome: pb.Outcome) -> None:
        """End the attempt's log."""
        self.log.end(outcome)
        self._said()

    async def _with_token(self, call: Callable[[str], Awaitable[_T]]) -> _T:
        while True:
            self.lease.check()
            token = self._token
            try:
                return await call(token)
            except Unauthenticated as error:
                await self._after_renewal(token, error)

    async def _after_renewal(self, token: str, error: Unauthenticated) -> None:
        """Wait for a token after this one if a call failed because it was over; raise the error otherwise.

        Tokens are renewed with the lease, and whoever was frozen comes back with an old one. If the lease is not
        renewed either, its end stops the attempt, and with it this wait.
        """
        if error.reason != "TASK_TOKEN_EXPIRED":
            raise error
        while self._token == token:
            await self._token_renewed.wait()

    def _check_may_begin(self) -> None:
        """Raise unless the attempt may still begin what goes on without it."""
        self.lease.check()
        if self.stop_reason:
            raise Canceled("the attempt is being stopped", reason="ATTEMPT_STOPPED")
        if self.time_left_s <= 0:
            raise DeadlineExceeded("the task ran out of time", reason="TASK_TIMEOUT")

    def _cancel_calls(self) -> None:
        for key in self._keys:
            cancel = asyncio.create_task(self._models.cancel(key, token=self.token))
            self._cancels.add(cancel)
            cancel.add_done_callback(self._cancels.discard)
        self._keys.clear()

    def _ask_for(self, step_key: str, spec: task_pb2.TaskSpec) -> None:
        left_s = max(self.time_left_s, _LEAST_TIMEOUT_S)
        if left_s < math.inf and not 0 < spec.timeout.seconds + spec.timeout.nanos / 1e9 <= left_s:
            spec = copy.deepcopy(spec)
            spec.timeout.CopyFrom(duration(left_s))
        self.spawns.append(
            pb.SpawnChild(
                task_id=self.task_id,
                attempt=self.attempt,
                step_key=step_key,
                spec=spec,
                traceparent=self.traceparent,
            )
        )
        self._speak(self)

    def _said(self) -> None:
        self.last_said = self.lease.now()
        self._speak(self)


def _future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


def _resolve(future: "asyncio.Future[Any]", value: Any) -> None:
    if not future.done():
        future.set_result(value)
