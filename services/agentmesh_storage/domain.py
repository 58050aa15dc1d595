"""What storage keeps and what may change it, as plain data.

Times are milliseconds since 1970. Bytes are serialised protobuf messages that storage keeps but never reads.
"""

from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from operator import attrgetter

from agentmesh_storage.schedules import Schedule, ScheduleChange


class State(IntEnum):
    """A task's state; the numbers are those of the contract."""

    UNSPECIFIED = 0
    SUBMITTED = 1
    WORKING = 2
    COMPLETED = 3
    FAILED = 4
    CANCELED = 5
    INPUT_REQUIRED = 6
    REJECTED = 7
    AUTH_REQUIRED = 8

    @property
    def terminal(self) -> bool:
        """Whether a task in this state has ended."""
        return self in _TERMINAL


_TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELED, State.REJECTED})


@dataclass(slots=True)
class Usage:
    """What a task consumed."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    llm_calls: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0

    def add(self, more: "Usage") -> None:
        """Add what else was consumed."""
        for name in Usage.__slots__:
            setattr(self, name, getattr(self, name) + getattr(more, name))


@dataclass(slots=True)
class Task:
    """A task's row. It is ready if SUBMITTED with a `ready_ms`, leased if `incarnation` is set, else parked.

    `due` says that `ready_ms` has come: only due tasks are claimed. `router` is the one that assigned or adopted
    the attempt. `limited_by` holds its labels that bound how many run at once, a name=value a line. Events up to
    `pruned_sequence` are gone. While `request_open`, nobody else may use its request_id.
    """

    id: str
    tenant: str
    agent: str
    spec: bytes
    create_ms: int
    priority: int = 5
    request_id: str = ""
    request_hash: bytes = b""
    context_id: str = ""
    parent_id: str = ""
    parent_step: str = ""
    retry_of: str = ""
    traceparent: str = ""
    timeout_ms: int = 0
    schedule_id: str = ""
    state: State = State.SUBMITTED
    agent_version: str = ""
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    last_sequence: int = 0
    kept_sequence: int = 0
    acked_offset: int = 0
    incarnation: str = ""
    router: str = ""
    ready_ms: int | None = None
    due: bool = False
    queue_deadline_ms: int | None = None
    start_ms: int | None = None
    deadline_ms: int | None = None
    end_ms: int | None = None
    cancel_ms: int | None = None
    result: bytes = b""
    error: bytes = b""
    input_request: bytes = b""
    input_id: str = ""
    limited_by: str = ""
    pruned_sequence: int = 0
    request_open: bool = True
    usage: Usage = field(default_factory=Usage)

    def copy(self) -> "Task":
        """Return a task that can change without this one."""
        task = Task(*_fields_of(self))
        task.usage = replace(self.usage)
        return task


_fields_of = attrgetter(*(one.name for one in fields(Task)))


@dataclass(slots=True)
class Chunk:
    """A row of the event log: `count` events from `first_sequence` on."""

    task_id: str
    attempt: int
    first_sequence: int
    count: int
    events: bytes


@dataclass(slots=True)
class Step:
    """A row of the journal; `record` is the serialised StepRecord, `sequence` that of its step_completed."""

    task_id: str
    key: str
    sequence: int
    record: bytes


@dataclass(slots=True)
class Runner:
    """A runner's incarnation and its lease."""

    incarnation: str
    name: str
    lease_until_ms: int
    freed: bool = False


@dataclass(slots=True)
class Claim:
    """Who gets a task."""

    incarnation: str
    agent_version: str
    router: str = ""


@dataclass(slots=True)
class CreateTask:
    """A new task; see the contract for each field."""

    task: Task
    labels: dict[str, str]
    queue_timeout_ms: int = 0
    claim: Claim | None = None
    inherit_journal: bool = False


@dataclass(slots=True)
class AppendEvents:
    """What an attempt says."""

    task_id: str
    attempt: int
    first_offset: int
    offsets: int
    events: bytes
    count: int
    steps: list[tuple[str, int, bytes]] = field(default_factory=list)  # key, index of its event, StepRecord
    artifact_ids: list[str] = field(default_factory=list)
    usage: Usage | None = None
    state: State = State.UNSPECIFIED
    result: bytes = b""
    error: bytes = b""
    ready_ms: int | None = None
    failure: bool = False
    input_request: bytes = b""
    input_id: str = ""
    passivate: bool = False
    awaited_task_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class RenewLease:
    """A runner lives."""

    incarnation: str
    name: str
    ttl_ms: int


@dataclass(slots=True)
class FreeRunner:
    """A runner's incarnation is gone."""

    incarnation: str


@dataclass(slots=True)
class SyncRunner:
    """A runner said what it works on."""

    incarnation: str
    running: frozenset[str]


@dataclass(slots=True)
class CancelTask:
    """Somebody asks for a task to stop."""

    task_id: str


@dataclass(slots=True)
class GiveInput:
    """Somebody answers a question. `record` is the StepRecord that journals the answer."""

    task_id: str
    input_id: str
    message: bytes
    record: bytes


@dataclass(slots=True)
class SpawnTask:
    """A task asks for a child."""

    parent_id: str
    parent_attempt: int
    step_key: str
    child: CreateTask


@dataclass(slots=True)
class AnnounceAgents:
    """A runner serves these agents: name and serialised Agent."""

    agents: list[tuple[str, bytes]]


@dataclass(slots=True)
class AdoptAttempt:
    """A router wants to go on with a running attempt."""

    task_id: str
    attempt: int
    incarnation: str


Change = (
    CreateTask
    | AppendEvents
    | RenewLease
    | FreeRunner
    | CancelTask
    | GiveInput
    | SpawnTask
    | AnnounceAgents
    | AdoptAttempt
    | SyncRunner
    | ScheduleChange
)


@dataclass(slots=True)
class Mutation:
    """One change, for one tenant. `origin` is the router that asks, `traceparent` the trace that it belongs to."""

    tenant: str
    change: Change
    origin: str = ""
    traceparent: str = ""


@dataclass(slots=True)
class Outcome:
    """What became of a mutation. `events` are those that storage wrote itself."""

    task_id: str = ""
    attempt: int = 0
    state: State = State.UNSPECIFIED
    first_sequence: int = 0
    last_sequence: int = 0
    acked_offset: int = 0
    events: bytes = b""
    events_attempt: int = 0
    existed: bool = False
    claimed: bool = False
    task: Task | None = None
    parent_id: str = ""
    cancel_requested: bool = False
    schedule: Schedule | None = None


@dataclass(slots=True)
class Head:
    """Where a task's log ends; what watchers are told."""

    tenant: str
    task_id: str
    last_sequence: int
    state: State
    attempt: int
    cancel_requested: bool
    parent_id: str
    origin: str


def head_of(task: Task, origin: str = "") -> Head:
    """Say where a task's log ends; `origin` is the router that made it grow."""
    cancel_requested = task.cancel_ms is not None
    return Head(
        task.tenant, task.id, task.last_sequence, task.state, task.attempt, cancel_requested, task.parent_id, origin
    )


@dataclass(slots=True)
class Offer:
    """Free slots of one agent at one runner."""

    agent: str
    agent_version: str
    incarnation: str
    slots: int
    router: str = ""


@dataclass(slots=True)
class Claimed:
    """A task with a new attempt."""

    task: Task
    chunk: Chunk


@dataclass(slots=True)
class TaskFilter:
    """Which tasks to list; empty fields filter nothing. `after` is the last id or (end, id) of the page before."""

    tenant: str
    page_size: int
    after: str = ""
    states: tuple[State, ...] = ()
    agent: str = ""
    label: tuple[str, str] | None = None
    created_after_ms: int | None = None
    created_before_ms: int | None = None
    by_end: bool = False
    context_id: str = ""
    parent_id: str = ""
    schedule_id: str = ""


@dataclass(slots=True)
class Artifact:
    """A stored artifact's description."""

    id: str
    tenant: str
    task_id: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    create_ms: int
    visible: bool
