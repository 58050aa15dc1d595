"""From what an attempt says to what storage commits."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2
from agentmesh.kit import names, usages
from agentmesh.kit.clock import timestamp
from agentmesh.kit.errors import InvalidRequest, MeshError, Unavailable, from_status, to_status
from agentmesh.kit.wire import TERMINAL
from agentmesh_router.domain import RetryPolicy
from agentmesh_router.wire import state_event

_RUNNER_STATES = frozenset({events_pb2.TASK_STATE_INPUT_REQUIRED, events_pb2.TASK_STATE_WORKING})


@dataclass(slots=True)
class Standing:
    """What the rules need to know of an attempt."""

    tenant: str
    policy: RetryPolicy
    failures: int
    asking: bool = False  # it asked a question that is not answered


def fill_append(append: pb.AppendEvents, batch: runner_pb.EventBatch, standing: Standing, now_ms: int) -> None:
    """Check a batch and write the change to commit; raise InvalidRequest if it breaks the rules."""
    if len(batch.events) > names.MAX_BATCH_BYTES:
        raise InvalidRequest("the batch is larger than 1 MiB", reason="BATCH_TOO_LARGE")
    try:
        events = events_pb2.EventList.FromString(batch.events).events
    except DecodeError as error:
        raise InvalidRequest("the events can't be parsed", reason="MALFORMED_EVENTS") from error
    append.task_id = batch.task_id
    append.attempt = batch.attempt
    append.first_offset = batch.first_offset
    append.offsets = append.event_count = len(events)
    append.events = batch.events
    for step in batch.steps:
        if not 0 <= step.event_index < len(events) or not _stands_for(events[step.event_index], step):
            raise InvalidRequest("a step has no event that stands for it", reason="STEP_WITHOUT_EVENT")
        append.steps.append(step)
    for event in events:
        _look_at(event, append, standing)
    if batch.HasField("outcome"):
        _end(append, batch.outcome, standing, now_ms)


def fill_failed(append: pb.AppendEvents, batch: runner_pb.EventBatch, error: MeshError, now_ms: int) -> None:
    """Write the change that ends a task whose runner broke the rules."""
    append.Clear()
    append.task_id = batch.task_id
    append.attempt = batch.attempt
    append.first_offset = batch.first_offset
    append.offsets = append.event_count = 1
    append.state = events_pb2.TASK_STATE_FAILED
    append.error.CopyFrom(to_status(error))
    append.events = state_event(events_pb2.TASK_STATE_FAILED, now_ms, error=append.error)


def _stands_for(event: events_pb2.TaskEvent, step: runner_pb.StepRecord) -> bool:
    kind = event.WhichOneof("payload")
    if step.kind != "intent":
        return kind == "step_completed" and event.step_completed.key == step.key
    if kind == "tool_result":  # the call failed, and may be made again
        return event.tool_result.HasField("error") and event.tool_result.call_id == step.key
    return kind == "tool_call" and event.tool_call.call_id == step.key


def _look_at(event: events_pb2.TaskEvent, append: pb.AppendEvents, standing: Standing) -> None:
    kind = event.WhichOneof("payload")
    if kind == "artifact":
        append.artifact_ids.append(event.artifact.artifact_id)
    elif kind == "usage":
        usages.add(append.usage, event.usage)
    elif kind == "state_changed":
        changed = event.state_changed
        if changed.state not in _RUNNER_STATES:
            raise InvalidRequest("a runner may not say this state", reason="STATE_NOT_ALLOWED")
        append.state = changed.state
        standing.asking = changed.state == events_pb2.TASK_STATE_INPUT_REQUIRED
        append.input_request = changed.input_request.SerializeToString() if standing.asking else b""
    elif kind is None:
        raise InvalidRequest("an event holds nothing", reason="EMPTY_EVENT")
    elif kind in ("attempt_started", "child_task"):
        raise InvalidRequest("only the mesh says this event", reason="EVENT_NOT_ALLOWED")


def _end(append: pb.AppendEvents, outcome: runner_pb.Outcome, standing: Standing, now_ms: int) -> None:
    kind = outcome.WhichOneof("kind")
    append.offsets += 1
    if kind == "completed":
        append.result = outcome.completed.SerializeToString()
        _say(append, events_pb2.TASK_STATE_COMPLETED, now_ms, result=outcome.completed)
    elif kind == "failed":
        _fail(append, outcome, standing, now_ms)
    elif kind == "rejected":
        append.error.CopyFrom(outcome.rejected)
        _say(append, events_pb2.TASK_STATE_REJECTED, now_ms, error=outcome.rejected)
    elif kind == "canceled":
        _say(append, events_pb2.TASK_STATE_CANCELED, now_ms)
    elif kind == "released":
        append.passivate = outcome.released.passivate
        append.awaited_task_ids.extend(outcome.released.awaited_task_ids)
        asks = append.passivate and standing.asking
        append.state = events_pb2.TASK_STATE_INPUT_REQUIRED if asks else events_pb2.TASK_STATE_SUBMITTED
        if not append.passivate:
            _say(append, events_pb2.TASK_STATE_SUBMITTED, now_ms)
    else:
        raise InvalidRequest("an outcome holds nothing", reason="EMPTY_OUTCOME")


def _fail(append: pb.AppendEvents, outcome: runner_pb.Outcome, standing: Standing, now_ms: int) -> None:
    error = from_status(outcome.failed)
    failures = standing.failures + 1
    append.failure = True
    if standing.policy.retries(failures, error.reason, non_retryable=outcome.non_retryable):
        ready_ms = now_ms + int(standing.policy.backoff_s(failures) * 1000)
        append.ready_time.CopyFrom(timestamp(ready_ms))
        append.error.CopyFrom(outcome.failed)
        again = timestamp(ready_ms)
        _say(append, events_pb2.TASK_STATE_SUBMITTED, now_ms, error=outcome.failed, retry_time=again)
        return
    status = outcome.failed
    if failures >= standing.policy.max_attempts > 1 and not outcome.non_retryable:
        status = _exhausted(error, failures)
    append.error.CopyFrom(status)
    _say(append, events_pb2.TASK_STATE_FAILED, now_ms, error=status)


def _exhausted(last: MeshError, failures: int) -> status_pb2.Status:
    error = Unavailable(
        f"the task failed {failures} times; the last time: {last.message}",
        reason="ATTEMPTS_EXHAUSTED",
        metadata={"last_reason": last.reason},
    )
    return to_status(error)


def _say(append: pb.AppendEvents, state: events_pb2.TaskState.ValueType, now_ms: int, **fields: object) -> None:
    append.state = state
    append.events += state_event(state, now_ms, **fields)
    append.event_count += 1


def is_terminal(append: pb.AppendEvents) -> bool:
    """Say whether a change ends its task."""
    return append.state in TERMINAL
