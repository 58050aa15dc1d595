"""Between the contract's messages and the domain."""

import re
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2, task_pb2, task_service_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.clock import duration, timestamp, to_ms
from agentmesh.kit.errors import InvalidRequest, MeshError, to_status
from agentmesh_storage import schedule_wire
from agentmesh_storage.domain import (
    AdoptAttempt,
    AnnounceAgents,
    AppendEvents,
    Artifact,
    CancelTask,
    Change,
    Chunk,
    Claim,
    Claimed,
    CreateTask,
    FreeRunner,
    GiveInput,
    Head,
    Mutation,
    Outcome,
    RenewLease,
    SpawnTask,
    State,
    Step,
    SyncRunner,
    Task,
    TaskFilter,
    Usage,
)

MAX_PAGE = 1000
_DEFAULT_PAGE = 50
_END_TOKEN = re.compile(r"[0-9]{1,18}\.", re.ASCII)
_STATES = frozenset(map(int, State))
_MAX_MS = 2**62  # a database's integers end soon after


def from_mutation(message: pb.Mutation, origin: str) -> Mutation:
    """Read a mutation; raise InvalidRequest if it holds no change."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("a mutation holds no change", reason="EMPTY_MUTATION")
    traceparent = message.create.traceparent if kind == "create" else message.traceparent
    return Mutation(message.tenant, _READERS[kind](message), origin, traceparent)


def to_result(outcome: Outcome | MeshError) -> pb.MutationResult:
    """Write an outcome."""
    if isinstance(outcome, MeshError):
        return pb.MutationResult(error=to_status(outcome))
    return pb.MutationResult(
        task_id=outcome.task_id,
        attempt=outcome.attempt,
        state=int(outcome.state),  # type: ignore[arg-type]
        first_sequence=outcome.first_sequence,
        last_sequence=outcome.last_sequence,
        acked_offset=outcome.acked_offset,
        events=outcome.events,
        events_attempt=outcome.events_attempt,
        existed=outcome.existed,
        claimed=outcome.claimed,
        task=to_task(outcome.task) if outcome.task is not None else None,
        parent_id=outcome.parent_id,
        cancel_requested=outcome.cancel_requested,
        schedule=schedule_wire.to_schedule(outcome.schedule) if outcome.schedule is not None else None,
    )


def to_task(task: Task) -> task_pb2.Task:
    """Write a task as clients see it."""
    message = task_pb2.Task(
        id=task.id,
        request_id=task.request_id,
        spec=task_pb2.TaskSpec.FromString(task.spec),
        state=int(task.state),  # type: ignore[arg-type]
        attempt=task.attempt,
        failures=task.failures,
        agent_version=task.agent_version,
        last_sequence=task.last_sequence,
        create_time=timestamp(task.create_ms),
        parent_id=task.parent_id,
        retry_of=task.retry_of,
        schedule_id=task.schedule_id,
    )
    for ms, field in (
        (task.start_ms, message.start_time),
        (task.end_ms, message.end_time),
        (task.cancel_ms, message.cancel_requested_time),
    ):
        if ms is not None:
            field.CopyFrom(timestamp(ms))
    if task.result:
        message.result.ParseFromString(task.result)
    if task.error:
        message.error.ParseFromString(task.error)
    if task.input_request:
        message.input_request.ParseFromString(task.input_request)
    used = task.usage
    if used != Usage():
        message.usage.CopyFrom(
            types_pb2.Usage(
                input_tokens=used.input_tokens,
                output_tokens=used.output_tokens,
                cached_input_tokens=used.cached_input_tokens,
                llm_calls=used.llm_calls,
                cache_write_tokens=used.cache_write_tokens,
                reasoning_tokens=used.reasoning_tokens,
                cost_nano_usd=used.cost_nano_usd,
            )
        )
    return message


def to_claimed(claimed: Claimed, journal: list[Step], page_token: str, now_ms: int) -> pb.ClaimedTask:
    """Write a claimed task with the first page of its journal."""
    task = claimed.task
    left_ms = task.deadline_ms - now_ms if task.deadline_ms is not None else 0
    return pb.ClaimedTask(
        tenant=task.tenant,
        task=to_task(task),
        incarnation=task.incarnation,
        journal=[to_step(step) for step in journal],
        journal_page_token=page_token,
        events=claimed.chunk.events,
        first_sequence=claimed.chunk.first_sequence,
        time_left=duration(left_ms / 1000) if left_ms > 0 else None,
        traceparent=task.traceparent,
    )


def to_step(step: Step) -> runner_pb.StepRecord:
    """Write a journaled step."""
    return runner_pb.StepRecord.FromString(step.record)


def to_chunk(chunk: Chunk) -> pb.StoredChunk:
    """Write a chunk; its events stay bytes."""
    return pb.StoredChunk(
        attempt=chunk.attempt,
        first_sequence=chunk.first_sequence,
        event_count=chunk.count,
        events=chunk.events,
    )


def to_head(head: Head) -> pb.TaskHead:
    """Write where a log ends."""
    return pb.TaskHead(
        tenant=head.tenant,
        task_id=head.task_id,
        last_sequence=head.last_sequence,
        state=int(head.state),  # type: ignore[arg-type]
        attempt=head.attempt,
        cancel_requested=head.cancel_requested,
        parent_id=head.parent_id,
    )


def from_head(message: pb.TaskHead) -> Head:
    """Read where a log ends, as another storage process says it."""
    return Head(
        tenant=message.tenant,
        task_id=message.task_id,
        last_sequence=message.last_sequence,
        state=State(message.state),
        attempt=message.attempt,
        cancel_requested=message.cancel_requested,
        parent_id=message.parent_id,
        origin="",
    )


def to_artifact(artifact: Artifact) -> types_pb2.Artifact:
    """Write an artifact's description."""
    return types_pb2.Artifact(
        artifact_id=artifact.id,
        name=artifact.name,
        media_type=artifact.media_type,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        task_id=artifact.task_id,
    )


def page_size_of(asked: int) -> int:
    """Return the size of a page: 50 if none is asked for, at most 1000."""
    return min(asked, MAX_PAGE) if asked > 0 else _DEFAULT_PAGE


def from_list_request(tenant: str, request: task_service_pb2.ListTasksRequest) -> TaskFilter:
    """Read a filter; raise InvalidRequest for a label that is not key=value or a bad page token."""
    label = None
    if any(state not in _STATES for state in request.states):
        raise InvalidRequest("a field is wrong", violations=[("states", "holds a number that is no state")])
    if request.label:
        name, equals, value = request.label.partition("=")
        if not equals:
            raise InvalidRequest("a field is wrong", violations=[("label", "must be key=value")])
        label = (name, value)
    by_end = request.order == task_service_pb2.TASK_ORDER_END_TIME
    token = request.page_token
    if token and bool(_END_TOKEN.match(token)) != by_end:
        raise InvalidRequest("a field is wrong", violations=[("page_token", "is not from the page before")])
    return TaskFilter(
        tenant=tenant,
        page_size=page_size_of(request.page_size),
        after=token,
        states=tuple(State(state) for state in request.states),
        agent=request.agent,
        label=label,
        created_after_ms=_bounded_ms(request.created_after) if request.HasField("created_after") else None,
        created_before_ms=_bounded_ms(request.created_before) if request.HasField("created_before") else None,
        by_end=by_end,
        context_id=request.context_id,
        parent_id=request.parent_id,
        schedule_id=request.schedule_id,
    )


def _bounded_ms(time: Timestamp) -> int:
    return max(-_MAX_MS, min(to_ms(time), _MAX_MS))


def _create(tenant: str, message: pb.CreateTask) -> CreateTask:
    task = Task(
        id=message.task_id,
        tenant=tenant,
        agent=message.agent,
        spec=message.spec,
        create_ms=0,
        priority=message.priority,
        request_id=message.request_id,
        request_hash=message.request_hash,
        context_id=message.context_id,
        retry_of=message.retry_of,
        traceparent=message.traceparent,
        timeout_ms=to_ms(message.timeout),
        ready_ms=to_ms(message.ready_time) if message.HasField("ready_time") else None,
    )
    claim = Claim(message.claim.incarnation, message.claim.agent_version) if message.HasField("claim") else None
    return CreateTask(
        task,
        dict(message.labels),
        queue_timeout_ms=to_ms(message.queue_timeout) if message.HasField("queue_timeout") else 0,
        claim=claim,
        inherit_journal=message.inherit_journal,
    )


def _append(message: pb.AppendEvents) -> AppendEvents:
    change = AppendEvents(
        task_id=message.task_id,
        attempt=message.attempt,
        first_offset=message.first_offset,
        offsets=message.offsets,
        events=message.events,
        count=message.event_count,
        state=State(message.state),
    )
    if message.steps:
        change.steps = [(step.key, step.event_index, step.SerializeToString()) for step in message.steps]
    if message.artifact_ids:
        change.artifact_ids = list(message.artifact_ids)
    if message.HasField("usage"):
        used = message.usage
        change.usage = Usage(
            used.input_tokens,
            used.output_tokens,
            used.cached_input_tokens,
            used.llm_calls,
            used.cache_write_tokens,
            used.reasoning_tokens,
            used.cost_nano_usd,
        )
    if message.state:
        change.result = message.result
        change.error = message.error.SerializeToString() if message.HasField("error") else b""
        change.ready_ms = to_ms(message.ready_time) if message.HasField("ready_time") else None
        change.failure = message.failure
        change.passivate = message.passivate
        change.awaited_task_ids = list(message.awaited_task_ids)
        if message.input_request:
            change.input_request = message.input_request
            change.input_id = events_pb2.InputRequest.FromString(message.input_request).input_id
    return change


def _input(message: pb.GiveInput) -> GiveInput:
    record = runner_pb.StepRecord(key=message.input_id, kind="input", name="input", result=message.message)
    return GiveInput(message.task_id, message.input_id, message.message, record.SerializeToString())


def _announce(message: pb.AnnounceAgents) -> AnnounceAgents:
    return AnnounceAgents([(agent.name, agent.SerializeToString()) for agent in message.agents])


_READERS: dict[str, Callable[[pb.Mutation], Change]] = {
    "create": lambda m: _create(m.tenant, m.create),
    "append": lambda m: _append(m.append),
    "renew": lambda m: RenewLease(m.renew.incarnation, m.renew.name, to_ms(m.renew.ttl)),
    "free_runner": lambda m: FreeRunner(m.free_runner.incarnation),
    "cancel": lambda m: CancelTask(m.cancel.task_id),
    "input": lambda m: _input(m.input),
    "spawn": lambda m: SpawnTask(
        m.spawn.parent_id, m.spawn.parent_attempt, m.spawn.step_key, _create(m.tenant, m.spawn.child)
    ),
    "announce": lambda m: _announce(m.announce),
    "sync_runner": lambda m: SyncRunner(m.sync_runner.incarnation, frozenset(m.sync_runner.running_task_ids)),
    "adopt": lambda m: AdoptAttempt(m.adopt.task_id, m.adopt.attempt, m.adopt.incarnation),
    "create_schedule": lambda m: schedule_wire.from_create(m.tenant, m.create_schedule),
    "delete_schedule": lambda m: schedule_wire.from_delete(m.delete_schedule),
    "pause_schedule": lambda m: schedule_wire.from_pause(m.pause_schedule),
    "fire_schedule": lambda m: schedule_wire.from_fire(m.fire_schedule),
}
