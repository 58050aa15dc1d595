"""Journaled steps: each is done once in the task's life, and what it said stands or falls with it."""

import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from google.rpc import status_pb2

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2
from agentmesh.kit import names
from agentmesh.kit.clock import duration, timestamp
from agentmesh.sdk.errors import AgentError
from agentmesh.sdk.journal import INTENT, Journal
from agentmesh.sdk.ports import Mesh

Event = events_pb2.TaskEvent

_scope: ContextVar[str] = ContextVar("scope", default="")
_step: ContextVar["OpenStep | None"] = ContextVar("step", default=None)


@dataclass(slots=True)
class OpenStep:
    """A step that runs; what it says whole is held until it finishes."""

    key: str
    held: list[Event]


def open_step() -> OpenStep:
    """Return the step that runs here; there must be one."""
    step = _step.get()
    assert step is not None
    return step


def enter_scope(scope: str) -> None:
    """Give the running asyncio task a scope of its own for keys."""
    _scope.set(scope)


def timed(event: Event) -> Event:
    """Stamp an event that has no time yet."""
    if not event.HasField("time"):
        event.time.CopyFrom(timestamp(time.time_ns() // 1_000_000))
    return event


class Steps:
    """The steps of one attempt: what the journal has is not done again."""

    def __init__(self, mesh: Mesh, journal: Journal) -> None:
        self._mesh = mesh
        self._journal = journal

    def key(self, kind: str, name: str, digest: str, given: str = "") -> str:
        """Return the key of the next such step: the one that was given, or one made of what it is."""
        return f"key:{given}" if given else self._journal.key(_scope.get(), kind, name, digest)

    async def say(self, event: Event, *, hold: bool = False) -> None:
        """Say an event, unless an earlier attempt said it; inside a step, `hold` says it when that finishes."""
        step = _step.get()
        if step is not None:
            event.step = step.key
            if hold:
                step.held.append(event)
                return
        elif not self._journal.is_news(_scope.get()):
            return
        await self._mesh.say([timed(event)])

    async def run(self, kind: str, name: str, key: str, work: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return what `work` made, now or in an earlier attempt. Its record is durable by then."""
        found = self._journal.find(key)
        if found is not None:
            return await self._recorded(found)
        step = OpenStep(key, [])
        started = time.monotonic()
        with _inside(step):
            result = await work()
        await self._complete(step, kind, name, result, time.monotonic() - started)
        if kind != "value":  # a value that is lost with the attempt has done nothing yet
            await self._mesh.settled()
        return result

    def is_intended(self, key: str) -> bool:
        """Whether a call under this key was begun, and nobody knows how it went."""
        return self._journal.is_intended(key)

    async def intend(self, name: str, call: Event) -> None:
        """Say that a call begins which must not be made twice; it is durable by then."""
        step = open_step()
        await self._record(step, [call], runner_pb.StepRecord(key=step.key, kind=INTENT, name=name))
        await self._mesh.settled()

    async def withdraw(self, name: str, answer: Event, error: status_pb2.Status) -> None:
        """Say that a call failed, so that it may be made again."""
        step = open_step()
        record = runner_pb.StepRecord(key=step.key, kind=INTENT, name=name, result=error.SerializeToString())
        await self._record(step, [answer], record)

    async def _complete(self, step: OpenStep, kind: str, name: str, result: bytes, elapsed_s: float) -> None:
        record = runner_pb.StepRecord(key=step.key, kind=kind, name=name, result=result)
        if len(result) > names.MAX_STEP_RESULT_BYTES:
            artifact = await self._mesh.store_artifact("step-result", "application/octet-stream", result)
            record.result, record.result_artifact_id = b"", artifact.artifact_id
            step.held.append(Event(artifact=artifact))
        completed = events_pb2.StepCompleted(
            key=step.key,
            kind=kind,
            name=name,
            digest=hashlib.sha256(result).hexdigest(),
            size_bytes=len(result),
            elapsed=duration(elapsed_s),
        )
        await self._record(step, [*step.held, Event(step_completed=completed)], record)

    async def _record(self, step: OpenStep, events: Sequence[Event], record: runner_pb.StepRecord) -> None:
        """Say events of a step, the last of which stands for a record."""
        for event in events:
            if not event.HasField("step_completed"):
                event.step = step.key
            timed(event)
        record.event_index = len(events) - 1
        self._journal.add(record)
        try:
            await self._mesh.say(events, [record])
        except BaseException:
            self._journal.take_back(record)
            raise

    async def _recorded(self, record: runner_pb.StepRecord) -> bytes:
        if record.result_artifact_id:
            return (await self._mesh.load_artifact(record.result_artifact_id))[1]
        return record.result


@contextmanager
def _inside(step: OpenStep) -> Iterator[None]:
    outer_step, outer_scope = _step.set(step), _scope.set(f"{step.key}/")
    try:
        yield
    finally:
        _step.reset(outer_step)
        _scope.reset(outer_scope)


def mismatch_of(journal: Journal) -> Event | None:
    """Return the event that reports steps which an attempt did not come by."""
    if not journal.unmatched:
        return None
    shown = ", ".join(journal.unmatched[:5])
    return timed(Event(log=events_pb2.Log(level="warning", message=f"journal_mismatch: not matched: {shown}")))


def to_json(name: str, value: Any) -> bytes:
    """Write the result of `name` as JSON; raise AgentError if it can't be."""
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError) as error:
        raise AgentError("RESULT_NOT_JSON", f"the result of {name!r} can't be written as JSON") from error
