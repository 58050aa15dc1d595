"""What the service needs from a backend."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agentmesh.kit.errors import MeshError, OutOfRange
from agentmesh_storage.domain import (
    Artifact,
    Chunk,
    Claimed,
    Head,
    Mutation,
    Offer,
    Outcome,
    State,
    Step,
    Task,
    TaskFilter,
    head_of,
)
from agentmesh_storage.ledger import Ledger
from agentmesh_storage.schedules import Schedule


@dataclass(slots=True)
class News:
    """What a transaction means for others: logs that grew, agents with ready work, leases that were lost."""

    heads: list[Head] = field(default_factory=list)
    ready_agents: set[str] = field(default_factory=set)
    leases_lost: int = 0

    def add(self, other: "News") -> None:
        """Take in what another transaction means."""
        self.heads += other.heads
        self.ready_agents |= other.ready_agents
        self.leases_lost += other.leases_lost


def news_of(ledger: Ledger) -> News:
    """Say what a ledger's transaction means for others."""
    news = News(leases_lost=len(ledger.freed))
    for task_id in {chunk.task_id for chunk in ledger.chunks} | set(ledger.changed):
        task = ledger.tasks[task_id]
        news.heads.append(head_of(task, ledger.origins.get(task_id, "")))
        if task.due:
            news.ready_agents.add(task.agent)
    return news


@dataclass(slots=True)
class Page:
    """A page of tasks; `next_after` is empty on the last."""

    tasks: list[Task]
    next_after: str


@dataclass(slots=True)
class SchedulePage:
    """A page of schedules; `next_after` is empty on the last."""

    schedules: list[Schedule]
    next_after: str


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what has ended is kept, and how many tasks one transaction prunes at most."""

    events_ms: int
    tasks_ms: int
    request_ids_ms: int
    batch: int


@dataclass(slots=True)
class Pruned:
    """What a batch forgot; the caller deletes the bytes behind `artifact_ids`. `more` says that it was full."""

    logs: int = 0
    tasks: int = 0
    requests: int = 0
    artifact_ids: list[str] = field(default_factory=list)
    more: bool = False


class TaskStore(Protocol):
    """Keeps tasks. A method that writes is one durable transaction; methods may be called at any time."""

    async def commit(self, mutations: Sequence[Mutation], now_ms: int) -> tuple[list[Outcome | MeshError], News]:
        """Apply mutations in order; raise Unavailable, with nothing applied, if it can't be written."""

    async def claim(self, offers: Sequence[Offer], now_ms: int) -> tuple[list[Claimed], News]:
        """Start attempts of ready tasks, highest priority first, up to the offered slots."""

    async def sweep(self, now_ms: int, *, expire_leases: bool) -> News:
        """Free runners whose lease is over, end tasks whose time is up, report ready work."""

    async def get_task(self, tenant: str, task_id: str) -> Task:
        """Return a task or raise NotFound."""

    async def list_tasks(self, filter: TaskFilter) -> Page:
        """Return a page of tasks, newest first."""

    async def read_chunks(
        self, tenant: str, task_id: str, after_sequence: int, max_bytes: int
    ) -> tuple[list[Chunk], int, State]:
        """Return chunks from the one holding after_sequence + 1, the last sequence, and the state.

        Raises OutOfRange with the oldest sequence if that chunk was pruned.
        """

    async def read_steps(self, tenant: str, task_id: str, after: int, max_bytes: int) -> list[Step]:
        """Return journaled steps with a sequence above `after`, oldest first; at least one if there is one."""

    async def backlog(self, limit: int) -> dict[str, int]:
        """Return how many tasks of each tenant wait for a slot, counted up to a limit."""

    async def oldest_waiting_ms(self) -> int | None:
        """Return since when the task has been ready that waits longest for a slot; None if none waits."""

    async def prune(self, now_ms: int, retention: Retention) -> Pruned:
        """Forget one batch of what is kept long enough."""

    async def fire(self, now_ms: int) -> tuple[News, bool]:
        """Make the tasks of schedules that are due, each firing once whoever else asks; say whether there is more."""

    async def get_schedule(self, tenant: str, schedule_id: str) -> Schedule:
        """Return a schedule or raise NotFound."""

    async def list_schedules(self, tenant: str, page_size: int, after: str) -> SchedulePage:
        """Return a page of schedules, newest first, older than `after`."""

    async def heads(self, task_ids: Sequence[str]) -> list[Head]:
        """Return where the logs of those tasks end that exist, of any tenant."""

    async def list_agents(self) -> list[bytes]:
        """Return every serialised Agent, by name."""

    async def add_artifact(self, artifact: Artifact) -> None:
        """Keep an artifact's description."""

    async def get_artifact(self, tenant: str, artifact_id: str) -> Artifact:
        """Return a description or raise NotFound."""

    async def list_artifacts(self, tenant: str, task_id: str, page_size: int, after: str) -> list[Artifact]:
        """Return visible artifacts, newest first, older than `after`."""

    async def delete_artifact(self, tenant: str, artifact_id: str) -> bool:
        """Forget an artifact; say whether it was there."""

    async def abandoned_artifacts(self, before_ms: int) -> list[str]:
        """Forget artifacts that no event made visible, made before then; return their ids."""

    async def ping(self) -> bool:
        """Say whether the backend answers."""

    async def aclose(self) -> None:
        """Finish what is under way and let go of the backend."""


def check_kept(after_sequence: int, pruned_sequence: int) -> None:
    """Raise OutOfRange if the event after a sequence was pruned."""
    if after_sequence < pruned_sequence:
        oldest = pruned_sequence + 1
        raise OutOfRange(
            f"the events before {oldest} are no longer kept",
            reason="HISTORY_PRUNED",
            metadata={"oldest_sequence": str(oldest)},
        )


class ArtifactFiles(Protocol):
    """Keeps the bytes behind artifacts under ids that the server made."""

    async def write(self, artifact_id: str, content: AsyncIterator[bytes], max_bytes: int) -> tuple[int, str]:
        """Store bytes durably, all or nothing; return their number and SHA-256 in hexadecimal."""

    def read(self, artifact_id: str, offset: int, limit: int | None) -> AsyncIterator[bytes]:
        """Return bytes in pieces of at most 256 KiB; raise NotFound if they are gone."""

    async def delete(self, artifact_id: str) -> None:
        """Forget bytes; it is no error if they are gone."""
