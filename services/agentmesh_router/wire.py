"""Between the contract's messages and the router's rules, and chunks as bytes."""

from typing import Any

from google.protobuf.duration_pb2 import Duration

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.kit import structs
from agentmesh.kit.clock import timestamp, to_ms
from agentmesh.kit.wire import varint
from agentmesh_router.domain import RetryPolicy, SpecFacts

_CHUNKS_TAG = b"\x0a"  # field 1, length-delimited: `chunks` of every streaming response


def encode_chunk(task_id: str, attempt: int, first_sequence: int, events: bytes) -> bytes:
    """Write a chunk as field 1 of a response, from its head and its events as they were stored."""
    head = events_pb2.EventChunk(task_id=task_id, attempt=attempt, first_sequence=first_sequence)
    data = head.SerializeToString() + events
    return _CHUNKS_TAG + varint(len(data)) + data


def cut(events: bytes, skip: int) -> bytes:
    """Drop the first events of a serialised EventList."""
    whole = events_pb2.EventList.FromString(events)
    rest: bytes = events_pb2.EventList(events=whole.events[skip:]).SerializeToString()
    return rest


def facts_of(spec: task_pb2.TaskSpec, now_ms: int) -> SpecFacts:
    """Read what validation looks at."""
    return SpecFacts(
        agent=spec.agent,
        prompt_chars=len(spec.prompt),
        has_content=bool(spec.prompt.strip() or spec.input or spec.artifact_ids or spec.parameters.fields),
        priority=spec.priority,
        timeout_s=_seconds(spec.timeout) if spec.HasField("timeout") else None,
        queue_timeout_s=_seconds(spec.queue_timeout) if spec.HasField("queue_timeout") else None,
        idle_timeout_s=_seconds(spec.idle_timeout) if spec.HasField("idle_timeout") else None,
        artifact_ids=spec.artifact_ids,
        labels=list(spec.labels.items()) if spec.labels else (),
        context_id=spec.context_id,
        max_attempts=spec.retry.max_attempts if spec.HasField("retry") else 0,
        size_bytes=spec.ByteSize(),
        starts_in_s=(to_ms(spec.start_time) - now_ms) / 1000 if spec.HasField("start_time") else 0.0,
    )


def data_faults(spec: task_pb2.TaskSpec) -> list[tuple[str, str]]:
    """Return the fields whose free-form data is not to be taken; see `structs.fault_of`."""
    checked = [("spec.parameters", spec.parameters), ("spec.constraints", spec.constraints)]
    checked += [(f"spec.input[{n}].metadata", part.metadata) for n, part in enumerate(spec.input)]
    found = [(field, fault) for field, struct in checked if struct.fields and (fault := structs.fault_of(struct))]
    for number, part in enumerate(spec.input):
        if part.HasField("data") and (fault := structs.value_fault(part.data)):
            found.append((f"spec.input[{number}].data", fault))
    return found


def retry_policy_of(spec: task_pb2.TaskSpec, default: RetryPolicy) -> RetryPolicy:
    """Read a task's retry policy, with the mesh's defaults for what it leaves open."""
    if not spec.HasField("retry"):
        return default
    retry = spec.retry
    return RetryPolicy(
        max_attempts=retry.max_attempts or default.max_attempts,
        initial_backoff_s=_seconds(retry.initial_backoff) or default.initial_backoff_s,
        max_backoff_s=_seconds(retry.max_backoff) or default.max_backoff_s,
        non_retryable_reasons=frozenset(retry.non_retryable_reasons),
    )


def state_event(state: events_pb2.TaskState.ValueType, now_ms: int, **fields: Any) -> bytes:
    """Write a state_changed event as a serialised EventList."""
    event = events_pb2.TaskEvent(time=timestamp(now_ms), state_changed=events_pb2.StateChanged(state=state, **fields))
    data: bytes = events_pb2.EventList(events=[event]).SerializeToString()
    return data


def first_time_ms(events: bytes) -> int:
    """Return the time of the first event of a serialised EventList."""
    return to_ms(events_pb2.EventList.FromString(events).events[0].time)


def _seconds(value: Duration) -> float:
    return value.seconds + value.nanos / 1e9
