from typing import Any

import pytest

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as storage_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.clock import to_ms
from agentmesh.kit.errors import InvalidRequest, Unavailable, from_status, to_status
from agentmesh_router import outcomes
from agentmesh_router.domain import RetryPolicy
from agentmesh_router.outcomes import Standing

NOW = 1_000_000
POLICY = RetryPolicy(3, 1.0, 60.0, frozenset({"POISON"}))
Outcome = runner_pb.Outcome


def standing(failures: int = 0, *, asking: bool = False) -> Standing:
    return Standing("acme", POLICY, failures, asking)


def batch(*events: pb.TaskEvent, **fields: Any) -> runner_pb.EventBatch:
    data = pb.EventList(events=events).SerializeToString()
    return runner_pb.EventBatch(task_id="t", attempt=1, first_offset=7, events=data, **fields)


def to_append(sent: runner_pb.EventBatch, standing: Standing, now_ms: int) -> storage_pb.AppendEvents:
    append = storage_pb.AppendEvents()
    outcomes.fill_append(append, sent, standing, now_ms)
    return append


def delta(text: str = "x") -> pb.TaskEvent:
    return pb.TaskEvent(text_delta=pb.TextDelta(text=text))


def state(value: pb.TaskState.ValueType, **fields: Any) -> pb.TaskEvent:
    return pb.TaskEvent(state_changed=pb.StateChanged(state=value, **fields))


def ended(outcome: Outcome, failures: int = 0, *, asking: bool = False) -> storage_pb.AppendEvents:
    """Append one delta and an outcome."""
    return to_append(batch(delta(), outcome=outcome), standing(failures, asking=asking), NOW)


def last_event(append: storage_pb.AppendEvents) -> pb.TaskEvent:
    return pb.EventList.FromString(append.events).events[-1]


def failed(reason: str = "BROKEN", **fields: Any) -> Outcome:
    return Outcome(failed=to_status(Unavailable("it broke", reason=reason)), **fields)


def test_events_pass_through_as_the_bytes_they_are() -> None:
    sent = batch(delta("a"), delta("b"))
    append = to_append(sent, standing(), NOW)
    assert (append.events, append.event_count, append.offsets, append.first_offset) == (sent.events, 2, 2, 7)
    assert append.state == pb.TASK_STATE_UNSPECIFIED


def test_artifacts_and_usage_are_gathered_from_the_events() -> None:
    events = [
        pb.TaskEvent(artifact=types_pb2.Artifact(artifact_id="a1")),
        pb.TaskEvent(usage=types_pb2.Usage(input_tokens=2, output_tokens=3, llm_calls=1)),
        pb.TaskEvent(usage=types_pb2.Usage(input_tokens=5, cached_input_tokens=1, llm_calls=1, cost_nano_usd=9)),
    ]
    append = to_append(batch(*events), standing(), NOW)
    assert append.artifact_ids == ["a1"]
    total = types_pb2.Usage(input_tokens=7, output_tokens=3, cached_input_tokens=1, llm_calls=2, cost_nano_usd=9)
    assert append.usage == total


@pytest.mark.parametrize(
    "value",
    [v for v in pb.TaskState.values() if v not in (pb.TASK_STATE_WORKING, pb.TASK_STATE_INPUT_REQUIRED)],
)
def test_a_runner_may_not_say_that_a_task_ended_or_is_ready(value: pb.TaskState.ValueType) -> None:
    with pytest.raises(InvalidRequest) as refused:
        to_append(batch(delta(), state(value)), standing(), NOW)
    assert refused.value.reason == "STATE_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (pb.TaskEvent(attempt_started=pb.AttemptStarted(attempt=9)), "EVENT_NOT_ALLOWED"),
        (pb.TaskEvent(child_task=pb.ChildTask(task_id="c")), "EVENT_NOT_ALLOWED"),
        (pb.TaskEvent(), "EMPTY_EVENT"),
    ],
)
def test_a_runner_may_not_say_what_only_the_mesh_says(event: pb.TaskEvent, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        to_append(batch(event), standing(), NOW)
    assert refused.value.reason == reason


def test_bytes_that_are_no_events_or_too_many_are_refused() -> None:
    for data, reason in ((b"\xff\xff", "MALFORMED_EVENTS"), (bytes(1024 * 1024 + 1), "BATCH_TOO_LARGE")):
        with pytest.raises(InvalidRequest) as refused:
            to_append(runner_pb.EventBatch(events=data), standing(), NOW)
        assert refused.value.reason == reason
    with pytest.raises(InvalidRequest) as refused:
        to_append(batch(outcome=Outcome()), standing(), NOW)
    assert refused.value.reason == "EMPTY_OUTCOME"


def test_a_completed_attempt_ends_the_task_with_its_result() -> None:
    result = pb.TaskResult(text="done")
    append = ended(Outcome(completed=result))
    assert (append.state, append.event_count, append.offsets) == (pb.TASK_STATE_COMPLETED, 2, 2)
    assert append.result == result.SerializeToString()
    assert last_event(append).state_changed == pb.StateChanged(state=pb.TASK_STATE_COMPLETED, result=result)
    assert outcomes.is_terminal(append)


def test_canceled_and_rejected_end_the_task_as_they_say() -> None:
    append = ended(Outcome(canceled=Outcome.Canceled()))
    assert last_event(append).state_changed.state == append.state == pb.TASK_STATE_CANCELED
    error = to_status(InvalidRequest("not for me", reason="NOT_FOR_ME"))
    append = ended(Outcome(rejected=error))
    assert (append.state, append.error) == (pb.TASK_STATE_REJECTED, error)
    assert last_event(append).state_changed == pb.StateChanged(state=pb.TASK_STATE_REJECTED, error=error)


@pytest.mark.parametrize(("failures", "wait_ms"), [(0, 1000), (1, 2000)])
def test_a_failed_attempt_is_tried_again_after_a_doubling_wait(failures: int, wait_ms: int) -> None:
    append = ended(failed(), failures)
    assert (append.state, append.failure) == (pb.TASK_STATE_SUBMITTED, True)
    assert to_ms(append.ready_time) == NOW + wait_ms
    changed = last_event(append).state_changed
    assert (changed.state, to_ms(changed.retry_time)) == (pb.TASK_STATE_SUBMITTED, NOW + wait_ms)
    assert from_status(changed.error).reason == "BROKEN"


def test_a_task_out_of_attempts_is_exhausted_and_says_what_failed_last() -> None:
    append = ended(failed(), 2)
    error = from_status(append.error)
    assert append.state == pb.TASK_STATE_FAILED
    assert (error.reason, error.metadata["last_reason"]) == ("ATTEMPTS_EXHAUSTED", "BROKEN")
    assert last_event(append).state_changed.error == append.error


@pytest.mark.parametrize("outcome", [failed(non_retryable=True), failed("POISON")], ids=["by outcome", "by policy"])
def test_what_is_not_worth_another_attempt_fails_at_once_with_its_own_reason(outcome: Outcome) -> None:
    append = ended(outcome)
    assert (append.state, append.error) == (pb.TASK_STATE_FAILED, outcome.failed)


def test_a_released_attempt_is_ready_at_once_and_costs_no_retry() -> None:
    append = ended(Outcome(released=Outcome.Release()))
    assert (append.state, append.failure, append.passivate) == (pb.TASK_STATE_SUBMITTED, False, False)
    assert not append.HasField("ready_time")
    assert last_event(append).state_changed.state == pb.TASK_STATE_SUBMITTED


def test_a_parked_attempt_says_nothing_and_names_what_it_waits_for() -> None:
    release = Outcome.Release(passivate=True, awaited_task_ids=["c1"])
    append = to_append(batch(outcome=Outcome(released=release)), standing(), NOW)
    assert (append.state, append.passivate, append.event_count) == (pb.TASK_STATE_SUBMITTED, True, 0)
    assert append.awaited_task_ids == ["c1"]
    assert append.offsets == 1


def test_an_attempt_that_parks_with_an_open_question_still_requires_input() -> None:
    asked = standing()
    request = pb.InputRequest(input_id="q")
    append = to_append(batch(state(pb.TASK_STATE_INPUT_REQUIRED, input_request=request)), asked, NOW)
    assert (append.state, append.input_request) == (pb.TASK_STATE_INPUT_REQUIRED, request.SerializeToString())
    release = Outcome(released=Outcome.Release(passivate=True))
    parked = to_append(batch(outcome=release), asked, NOW)
    assert (parked.state, parked.input_request) == (pb.TASK_STATE_INPUT_REQUIRED, b"")
    assert ended(release).state == pb.TASK_STATE_SUBMITTED


def test_a_runner_that_breaks_the_rules_fails_its_task_with_one_event() -> None:
    append = storage_pb.AppendEvents(artifact_ids=["from before the rule was broken"])
    sent = batch(delta(), delta())
    outcomes.fill_failed(append, sent, InvalidRequest("no", reason="STATE_NOT_ALLOWED"), NOW)
    assert not append.artifact_ids
    assert (append.first_offset, append.offsets, append.event_count) == (7, 1, 1)
    assert append.state == last_event(append).state_changed.state == pb.TASK_STATE_FAILED
    assert from_status(append.error).reason == "STATE_NOT_ALLOWED"
