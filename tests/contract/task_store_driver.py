"""Drives a TaskStore in short sentences, so that one suite can be read over every backend."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import MeshError
from agentmesh.kit.ids import new_id
from agentmesh.kit.settings import Database
from agentmesh_storage import domain as d
from agentmesh_storage.adapters.postgres.store import open_store
from agentmesh_storage.adapters.sqlite.store import SqliteTaskStore
from agentmesh_storage.ports import News, TaskStore
from agentmesh_storage.rules import Rules

START_MS = 1_800_000_000_000
LEASE_MS = 15_000
MAX_LOSSES = 3
RUNNER = "runner-1~a"
RULES = Rules(
    max_losses=MAX_LOSSES, weights={"heavy": 3}, tenants={"narrow": 2}, agents={"rare": 1}, labels={"project": 1}
)

Backend = Callable[[pytest.FixtureRequest, Path], AbstractAsyncContextManager[TaskStore]]


@asynccontextmanager
async def sqlite(_: pytest.FixtureRequest, folder: Path) -> AsyncIterator[TaskStore]:
    """Open the embedded backend."""
    store = SqliteTaskStore(folder / "tasks.db", RULES)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def postgres(request: pytest.FixtureRequest, _: Path) -> AsyncIterator[TaskStore]:
    """Open the production backend on a new database."""
    store = await open_store(Database(url=request.getfixturevalue("database_url"), create_tables=True), RULES)
    try:
        yield store
    finally:
        await store.aclose()


BACKENDS: tuple[Backend, ...] = (sqlite, postgres)


def text_events(*texts: str) -> bytes:
    """Write one text delta for each text."""
    deltas = [pb.TaskEvent(text_delta=pb.TextDelta(text=text)) for text in texts]
    return pb.EventList(events=deltas).SerializeToString()


def state_events(state: d.State) -> bytes:
    """Write one state_changed."""
    changed = pb.StateChanged(state=int(state))  # type: ignore[arg-type]
    return pb.EventList(events=[pb.TaskEvent(state_changed=changed)]).SerializeToString()


def record(key: str, result: bytes = b"1") -> bytes:
    """Write a StepRecord."""
    return runner_pb.StepRecord(key=key, kind="step", name=key, result=result).SerializeToString()


def answer(text: str) -> bytes:
    """Write what a person answers."""
    message = types_pb2.Message(role=types_pb2.ROLE_USER, parts=[types_pb2.Part(text=text)])
    return message.SerializeToString()


class Driver:
    """One store and a clock that moves only when a test moves it."""

    def __init__(self, store: TaskStore) -> None:
        self.store = store
        self.now = START_MS
        self.news = News()

    async def group(self, *changes: d.Change | d.Mutation, tenant: str = "acme") -> list[d.Outcome | MeshError]:
        """Commit changes in one transaction."""
        mutations = [c if isinstance(c, d.Mutation) else d.Mutation(tenant, c) for c in changes]
        outcomes, self.news = await self.store.commit(mutations, self.now)
        return outcomes

    async def do(self, change: d.Change, *, tenant: str = "acme") -> d.Outcome:
        """Commit one change; raise what it is refused with."""
        (outcome,) = await self.group(change, tenant=tenant)
        if isinstance(outcome, MeshError):
            raise outcome
        return outcome

    async def runner(self, incarnation: str = RUNNER, ttl_ms: int = LEASE_MS) -> str:
        """Renew a runner's lease."""
        await self.do(d.RenewLease(incarnation, incarnation.partition("~")[0], ttl_ms))
        return incarnation

    def new(self, claim: str = "", **fields: Any) -> d.CreateTask:
        """Describe a new task; what is not a field of Task is one of CreateTask."""
        own = {name: fields.pop(name) for name in ("labels", "queue_timeout_ms", "inherit_journal") if name in fields}
        fields = {"id": new_id(), "tenant": "acme", "agent": "echo", "spec": b"", "create_ms": 0, **fields}
        return d.CreateTask(d.Task(**fields), claim=d.Claim(claim, "1") if claim else None, **{"labels": {}, **own})

    async def create(self, claim: str = "", **fields: Any) -> str:
        """Commit a new task and return its id."""
        change = self.new(claim, **fields)
        await self.do(change, tenant=change.task.tenant)
        return change.task.id

    async def started(self, incarnation: str = RUNNER, **fields: Any) -> str:
        """Commit a new task that a living runner has claimed."""
        return await self.create(await self.runner(incarnation), **fields)

    async def claim(self, slots: int = 1, *, agent: str = "echo", incarnation: str = RUNNER) -> list[d.Claimed]:
        """Claim from the backlog."""
        claimed, self.news = await self.store.claim([d.Offer(agent, "1", incarnation, slots)], self.now)
        return claimed

    async def sweep(self, *, expire_leases: bool = True) -> News:
        """Sweep."""
        self.news = await self.store.sweep(self.now, expire_leases=expire_leases)
        return self.news

    def says(self, task_id: str, *texts: str, attempt: int = 1, offset: int = 0, **fields: Any) -> d.AppendEvents:
        """Describe what an attempt says."""
        count = len(texts)
        return d.AppendEvents(task_id, attempt, offset, count, text_events(*texts), count, **fields)

    def step(self, task_id: str, key: str, *, attempt: int = 1, offset: int = 0) -> d.AppendEvents:
        """Describe a step that an attempt finished."""
        done = pb.TaskEvent(step_completed=pb.StepCompleted(key=key))
        text = pb.EventList(events=[done]).SerializeToString()
        return d.AppendEvents(task_id, attempt, offset, 1, text, 1, steps=[(key, 0, record(key))])

    def ends(
        self, task_id: str, state: d.State = d.State.COMPLETED, *, attempt: int = 1, offset: int = 0, **fields: Any
    ) -> d.AppendEvents:
        """Describe how an attempt ends, with its event."""
        return d.AppendEvents(task_id, attempt, offset, 1, state_events(state), 1, state=state, **fields)

    def asks(self, task_id: str, input_id: str = "q", *, attempt: int = 1, offset: int = 0) -> d.AppendEvents:
        """Describe a question of an attempt."""
        request = pb.InputRequest(input_id=input_id).SerializeToString()
        state = d.State.INPUT_REQUIRED
        return d.AppendEvents(
            task_id, attempt, offset, 1, state_events(state), 1, state=state, input_request=request, input_id=input_id
        )

    def parks(
        self, task_id: str, *children: str, asking: bool = False, attempt: int = 1, offset: int = 0
    ) -> d.AppendEvents:
        """Describe that a runner lets go of an attempt until something comes."""
        state = d.State.INPUT_REQUIRED if asking else d.State.SUBMITTED
        awaited = list(children)
        return d.AppendEvents(
            task_id, attempt, offset, 1, b"", 0, state=state, passivate=True, awaited_task_ids=awaited
        )

    def answers(self, task_id: str, input_id: str = "q", text: str = "yes") -> d.GiveInput:
        """Describe an answer."""
        return d.GiveInput(task_id, input_id, answer(text), record(input_id, answer(text)))

    def spawns(self, parent_id: str, step_key: str = "s", *, attempt: int = 1, claim: str = "") -> d.SpawnTask:
        """Describe a child."""
        return d.SpawnTask(parent_id, attempt, step_key, self.new(claim))

    async def spawn(self, parent_id: str, step_key: str = "s", *, attempt: int = 1, claim: str = "") -> str:
        """Commit a child and return its id."""
        outcome = await self.do(self.spawns(parent_id, step_key, attempt=attempt, claim=claim))
        return outcome.task_id

    async def task(self, task_id: str, tenant: str = "acme") -> d.Task:
        """Read a task."""
        return await self.store.get_task(tenant, task_id)

    async def log(self, task_id: str, after: int = 0) -> list[tuple[int, int, pb.TaskEvent]]:
        """Read a log as (sequence, attempt, event); fail if the chunks' counts or sequences don't fit."""
        read: list[tuple[int, int, pb.TaskEvent]] = []
        while True:
            chunks, last, _ = await self.store.read_chunks("acme", task_id, after, 1)
            for chunk in chunks:
                events = pb.EventList.FromString(chunk.events).events
                assert len(events) == chunk.count
                read.extend((chunk.first_sequence + i, chunk.attempt, event) for i, event in enumerate(events))
            if not chunks:
                assert not read or read[-1][0] == last
                return read
            after = read[-1][0]

    async def said(self, task_id: str) -> list[str]:
        """Read a log in short: each event's state, text or kind."""
        return [in_short(event) for _, _, event in await self.log(task_id)]


def in_short(event: pb.TaskEvent) -> str:
    """Return an event's state, text or kind."""
    kind = event.WhichOneof("payload") or ""
    if kind == "state_changed":
        return pb.TaskState.Name(event.state_changed.state).removeprefix("TASK_STATE_")
    return event.text_delta.text if kind == "text_delta" else kind


def reasons(outcomes: Sequence[d.Outcome | MeshError]) -> list[str]:
    """Return why each was refused; empty where it was not."""
    return [outcome.reason if isinstance(outcome, MeshError) else "" for outcome in outcomes]
