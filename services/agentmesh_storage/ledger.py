"""The rules of a task's life, pure: rows in, changed rows and new log entries out.

An adapter loads the rows that a batch of mutations touches, applies the mutations here one after another,
and writes what changed in the same transaction. A rule checks everything before it changes anything, so a
refused mutation leaves no trace.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agentmesh.kit import errors
from agentmesh.kit.clock import LAST_TIME_MS
from agentmesh_storage import events, firing, leases
from agentmesh_storage.domain import (
    AdoptAttempt,
    AnnounceAgents,
    AppendEvents,
    CancelTask,
    Chunk,
    Claim,
    CreateTask,
    FreeRunner,
    GiveInput,
    Mutation,
    Outcome,
    RenewLease,
    Runner,
    SpawnTask,
    State,
    Step,
    SyncRunner,
    Task,
)
from agentmesh_storage.rules import Rules
from agentmesh_storage.schedules import CreateSchedule, DeleteSchedule, FireSchedule, PauseSchedule, Schedule


@dataclass(slots=True)
class Ledger:
    """The rows that one transaction works on, and what it changes.

    The adapter fills `tasks`, `by_request`, `by_parent_step`, `runners` (those of a renewed name, too) and
    `answered`, and the schedules, before, and looks at the rest after.
    """

    now_ms: int
    rules: Rules = field(default_factory=Rules)
    tasks: dict[str, Task] = field(default_factory=dict)
    by_request: dict[tuple[str, str], Task] = field(default_factory=dict)
    by_parent_step: dict[tuple[str, str], Task] = field(default_factory=dict)
    runners: dict[str, Runner] = field(default_factory=dict)
    answered: set[tuple[str, str]] = field(default_factory=set)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    schedule_requests: dict[tuple[str, str], Schedule] = field(default_factory=dict)
    schedule_counts: dict[str, int] = field(default_factory=dict)

    created: dict[str, CreateTask] = field(default_factory=dict)
    changed: dict[str, Task] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    visible_artifacts: list[str] = field(default_factory=list)
    changed_runners: dict[str, Runner] = field(default_factory=dict)
    agents: list[tuple[str, bytes]] = field(default_factory=list)
    journals_to_copy: list[tuple[str, str]] = field(default_factory=list)
    ended_badly: list[str] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)
    synced: list[tuple[str, SyncRunner, frozenset[str]]] = field(default_factory=list)  # who asked, what, after which
    origins: dict[str, str] = field(default_factory=dict)
    created_schedules: dict[str, Schedule] = field(default_factory=dict)
    changed_schedules: dict[str, Schedule] = field(default_factory=dict)
    deleted_schedules: list[str] = field(default_factory=list)

    def apply(self, mutation: Mutation) -> Outcome | errors.MeshError:
        """Apply one mutation and return its outcome, or why it is refused."""
        rule = _RULES[type(mutation.change)]
        try:
            outcome = rule(self, mutation)
        except errors.MeshError as error:
            return error
        if outcome.task_id:
            self.credit(outcome.task_id, mutation.origin if outcome.first_sequence else "")
        return outcome

    # -- the life of a task -------------------------------------------------------------------------------

    def _create(self, mutation: Mutation) -> Outcome:
        change = mutation.change
        assert isinstance(change, CreateTask)
        # The mutation stays as it came: a transaction that starts over applies it again.
        task = change.task.copy()
        if task.request_id:
            twin = self.by_request.get((task.tenant, task.request_id))
            if twin is not None:
                if twin.request_hash != task.request_hash:
                    raise errors.AlreadyExists(
                        "this request_id was used for another request", reason="REQUEST_ID_REUSED"
                    )
                return _outcome(twin, existed=True, task=twin)
        outcome = self._add(change, task, mutation.origin)
        if task.request_id:
            self.by_request[task.tenant, task.request_id] = task
        return outcome

    def _add(self, change: CreateTask, task: Task, origin: str) -> Outcome:
        if (task.ready_ms or 0) > LAST_TIME_MS:
            raise errors.InvalidRequest("a field is wrong", violations=[("spec.start_time", "is after the year 9999")])
        task.create_ms = self.now_ms
        task.ready_ms = max(task.ready_ms or 0, self.now_ms)
        task.due = task.ready_ms <= self.now_ms
        task.limited_by = self.rules.limited_by(change.labels)
        if change.queue_timeout_ms:
            task.queue_deadline_ms = task.ready_ms + change.queue_timeout_ms
        self.tasks[task.id] = task
        self.created[task.id] = replace(change, task=task)
        if change.inherit_journal:
            self.journals_to_copy.append((task.retry_of, task.id))
        accepted = self.say(task, 0, 1, events.submitted(self.now_ms))
        task.kept_sequence = 1
        outcome = _outcome(task)
        outcome.first_sequence = 1
        outcome.events = accepted.events
        claim = change.claim
        if claim is not None and task.due and not self.rules.bound(task) and self.lives(claim.incarnation):
            started = self.start_attempt(task, Claim(claim.incarnation, claim.agent_version, origin))
            # One chunk: what the caller hears first is one row.
            self.chunks.pop()
            accepted.events += started.events
            accepted.count += started.count
            outcome = _outcome(task, claimed=True)
            outcome.first_sequence = 1
            outcome.events = accepted.events
        return outcome

    def start_attempt(self, task: Task, claim: Claim) -> Chunk:
        """Give a task to a runner as a new attempt."""
        task.attempt += 1
        task.acked_offset = 0
        task.incarnation = claim.incarnation
        task.router = claim.router
        task.agent_version = claim.agent_version
        task.state = State.WORKING
        task.ready_ms = task.queue_deadline_ms = None
        task.due = False
        if task.start_ms is None:
            task.start_ms = self.now_ms
            task.deadline_ms = self.now_ms + task.timeout_ms if task.timeout_ms else None
        self.credit(task.id, claim.router)  # which gets the events with its claim
        text = events.attempt_started(task, task.kept_sequence, self.now_ms)
        return self.say(task, task.attempt, 2, text)

    def _append(self, mutation: Mutation) -> Outcome:
        change = mutation.change
        assert isinstance(change, AppendEvents)
        task = self._owned(mutation.tenant, change.task_id)
        end = change.first_offset + change.offsets
        if task.attempt == change.attempt and end <= task.acked_offset:
            return _outcome(task)  # said before, the reply was lost
        self._fence(task, change.attempt)
        if change.first_offset != task.acked_offset:
            raise errors.WrongState(
                "events are missing before these",
                reason="OFFSET_GAP",
                metadata={"acked_offset": str(task.acked_offset)},
            )
        first = task.last_sequence + 1
        if change.count:
            self.say(task, change.attempt, change.count, change.events)
        for key, index, record in change.steps:
            self.steps.append(Step(task.id, key, first + index, record))
            task.kept_sequence = first + index
        self.visible_artifacts.extend(change.artifact_ids)
        if change.usage is not None:
            _add_usage(task, change)
        task.acked_offset = end
        self._move(task, change)
        self.changed[task.id] = task
        outcome = _outcome(task)
        outcome.first_sequence = first if change.count else 0
        return outcome

    def _move(self, task: Task, change: AppendEvents) -> None:
        if change.state is State.UNSPECIFIED:
            return
        if change.state.terminal:
            self._end(task, change.state, result=change.result, error=change.error)
            return
        task.state = change.state
        if change.state is State.SUBMITTED:
            self._let_go(task, change)
        elif change.state is State.INPUT_REQUIRED:
            if change.input_request:
                task.input_request, task.input_id = change.input_request, change.input_id
            if change.passivate:
                self._park(task)
        elif change.state is State.WORKING:
            task.input_request, task.input_id = b"", ""

    def _park(self, task: Task) -> None:
        task.incarnation = ""
        if task.cancel_ms is not None:
            self.finish(task, State.CANCELED)
        elif not task.input_id or (task.id, task.input_id) in self.answered:
            task.state = State.SUBMITTED  # the answer came while the runner let go
            self.make_ready(task)

    def _let_go(self, task: Task, change: AppendEvents) -> None:
        task.incarnation = ""
        task.error = change.error
        if change.failure:
            task.failures += 1
        if change.passivate:
            children = [self.tasks.get(child) for child in change.awaited_task_ids]
            # With nothing left to wait for, nothing would ever wake it.
            if not children or any(child is None or child.state.terminal for child in children):
                self.make_ready(task)
        else:
            self.make_ready(task, change.ready_ms)
        if task.cancel_ms is not None:
            self.finish(task, State.CANCELED)

    def _end(self, task: Task, state: State, *, result: bytes = b"", error: bytes = b"") -> None:
        task.state = state
        task.end_ms = self.now_ms
        task.incarnation = ""
        task.ready_ms = task.queue_deadline_ms = None
        task.due = False
        task.result, task.error = result, error
        task.input_request, task.input_id = b"", ""
        if state is not State.COMPLETED:
            self.ended_badly.append(task.id)
        parent = self.tasks.get(task.parent_id) if task.parent_id else None
        if parent is not None and not parent.state.terminal:
            self.credit(parent.id, "")
            self.say(parent, 0, 1, events.child_task(task, self.now_ms))
            if parent.state is State.SUBMITTED and parent.ready_ms is None:
                self.make_ready(parent)

    def finish(self, task: Task, state: State, error: bytes = b"") -> Chunk:
        """End a task without its agent."""
        self.credit(task.id, "")
        chunk = self.say(task, 0, 1, events.state_changed(state, self.now_ms, error))
        self._end(task, state, error=error)
        self.changed[task.id] = task
        return chunk

    # -- what comes from outside the attempt ----------------------------------------------------------------

    def _cancel(self, mutation: Mutation) -> Outcome:
        change = mutation.change
        assert isinstance(change, CancelTask)
        task = self._owned(mutation.tenant, change.task_id)
        if task.state.terminal:
            if task.state is State.CANCELED:
                return _outcome(task, task=task)
            raise errors.WrongState("the task has ended already", reason="TASK_ENDED")
        return self.cancel(task)

    def cancel(self, task: Task) -> Outcome:
        """Stop a task that has not ended: at once if nobody works on it, else by asking."""
        self.credit(task.id, "")
        task.cancel_ms = task.cancel_ms or self.now_ms
        self.changed[task.id] = task
        if task.incarnation:
            return _outcome(task, task=task)
        chunk = self.finish(task, State.CANCELED)
        outcome = _outcome(task, task=task)
        outcome.first_sequence, outcome.events = chunk.first_sequence, chunk.events
        return outcome

    def _input(self, mutation: Mutation) -> Outcome:
        change = mutation.change
        assert isinstance(change, GiveInput)
        task = self._owned(mutation.tenant, change.task_id)
        if (task.id, change.input_id) in self.answered:
            raise errors.WrongState("this question was answered already", reason="INPUT_ALREADY_GIVEN")
        if task.state is not State.INPUT_REQUIRED or task.input_id != change.input_id:
            raise errors.WrongState("the task does not ask this question", reason="INPUT_NOT_ASKED")
        task.state = State.WORKING if task.incarnation else State.SUBMITTED
        if not task.incarnation:
            self.make_ready(task)
        text = events.input_given(change.message, task.state, self.now_ms)
        chunk = self.say(task, 0, 2, text)
        self.steps.append(Step(task.id, change.input_id, chunk.first_sequence, change.record))
        self.answered.add((task.id, change.input_id))
        task.input_request, task.input_id = b"", ""
        outcome = _outcome(task, task=task)
        outcome.first_sequence, outcome.events = chunk.first_sequence, chunk.events
        return outcome

    def _spawn(self, mutation: Mutation) -> Outcome:
        change = mutation.change
        assert isinstance(change, SpawnTask)
        parent = self._owned(mutation.tenant, change.parent_id)
        self._fence(parent, change.parent_attempt)
        twin = self.by_parent_step.get((parent.id, change.step_key))
        if twin is not None:
            return _outcome(twin, existed=True, task=twin)
        child = change.child.task.copy()
        child.parent_id, child.parent_step = parent.id, change.step_key
        outcome = self._add(change.child, child, mutation.origin)
        self.by_parent_step[parent.id, change.step_key] = child
        self.credit(parent.id, "")
        self.say(parent, 0, 1, events.child_task(child, self.now_ms))
        outcome.task = child
        outcome.parent_id = parent.id
        return outcome

    def _adopt(self, mutation: Mutation) -> Outcome:
        change = mutation.change
        assert isinstance(change, AdoptAttempt)
        task = self._owned(mutation.tenant, change.task_id)
        self._fence(task, change.attempt)
        if task.incarnation != change.incarnation:
            raise errors.StaleAttempt("another runner has the task")
        if task.router != mutation.origin:
            task.router = mutation.origin
            self.changed[task.id] = task
        return _outcome(task, task=task)

    def expire_if_due(self, task: Task) -> bool:
        """End a task that waited or ran for too long; say whether it was so."""
        if task.deadline_ms is not None and task.deadline_ms < self.now_ms:
            error = errors.DeadlineExceeded("the task ran out of time", reason="TASK_TIMEOUT")
        elif task.queue_deadline_ms is not None and task.queue_deadline_ms < self.now_ms:
            error = errors.DeadlineExceeded("no runner took the task in time", reason="QUEUE_TIMEOUT")
        else:
            return False
        if not task.state.terminal:
            self.finish(task, State.FAILED, events.status(error))
        return True

    # -- the three checks that everything stands on --------------------------------------------------------

    def _owned(self, tenant: str, task_id: str) -> Task:
        task = self.tasks.get(task_id)
        if task is None or task.tenant != tenant:
            raise errors.NotFound("there is no such task", reason="TASK_NOT_FOUND")
        return task

    def _fence(self, task: Task, attempt: int) -> None:
        if task.attempt != attempt or not task.incarnation or task.state.terminal:
            raise errors.StaleAttempt("this attempt does not hold the task")

    def lives(self, incarnation: str) -> bool:
        """Say whether a runner's lease holds."""
        runner = self.runners.get(incarnation)
        return runner is not None and not runner.freed and runner.lease_until_ms > self.now_ms

    def credit(self, task_id: str, origin: str) -> None:
        """Note whose change it was. What several changed in one transaction is news to all of them."""
        self.origins[task_id] = origin if self.origins.get(task_id, origin) == origin else ""

    def make_ready(self, task: Task, ready_ms: int | None = None) -> None:
        """Let a task be claimed, from a time on."""
        task.ready_ms = max(ready_ms or 0, self.now_ms)
        task.due = task.ready_ms <= self.now_ms
        task.queue_deadline_ms = task.deadline_ms  # its time runs on while it waits for the next runner

    def say(self, task: Task, attempt: int, count: int, text: bytes) -> Chunk:
        """Add events to a task's log."""
        chunk = Chunk(task.id, attempt, task.last_sequence + 1, count, text)
        task.last_sequence += count
        self.chunks.append(chunk)
        self.changed[task.id] = task
        return chunk


_RULES: dict[type, Callable[[Ledger, Mutation], Outcome]] = {
    CreateTask: Ledger._create,
    AppendEvents: Ledger._append,
    CancelTask: Ledger._cancel,
    GiveInput: Ledger._input,
    SpawnTask: Ledger._spawn,
    AdoptAttempt: Ledger._adopt,
    RenewLease: leases.renew,
    FreeRunner: leases.free_runner,
    AnnounceAgents: leases.announce,
    SyncRunner: leases.sync,
    CreateSchedule: firing.create,
    DeleteSchedule: firing.delete,
    PauseSchedule: firing.pause,
    FireSchedule: firing.run_now,
}


def _outcome(row: Task, *, existed: bool = False, claimed: bool = False, task: Task | None = None) -> Outcome:
    return Outcome(
        task_id=row.id,
        attempt=row.attempt,
        state=row.state,
        last_sequence=row.last_sequence,
        acked_offset=row.acked_offset,
        existed=existed,
        claimed=claimed,
        task=task,
        parent_id=row.parent_id if row.state.terminal else "",
        cancel_requested=row.cancel_ms is not None,
    )


def _add_usage(task: Task, change: AppendEvents) -> None:
    assert change.usage is not None
    task.usage.add(change.usage)
