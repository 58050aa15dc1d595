"""A record in the journal needs an event that stands for it: readers learn of steps by events only."""

import pytest

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as storage_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.kit.errors import InvalidRequest, Unavailable, to_status
from agentmesh_router import outcomes
from agentmesh_router.domain import RetryPolicy
from agentmesh_router.outcomes import Standing

DELTA = pb.TaskEvent(text_delta=pb.TextDelta(text="x"))
DONE = pb.TaskEvent(step_completed=pb.StepCompleted(key="k"))
CALL = pb.TaskEvent(tool_call=pb.ToolCall(call_id="k"))
FAILED = pb.TaskEvent(tool_result=pb.ToolResult(call_id="k", error=to_status(Unavailable("it failed"))))
ANSWERED = pb.TaskEvent(tool_result=pb.ToolResult(call_id="k"))


def appended(event: pb.TaskEvent, key: str, kind: str, index: int) -> storage_pb.AppendEvents:
    append = storage_pb.AppendEvents()
    step = runner_pb.StepRecord(key=key, kind=kind, event_index=index)
    events = pb.EventList(events=[DELTA, event]).SerializeToString()
    batch = runner_pb.EventBatch(task_id="t", attempt=1, events=events, steps=[step])
    outcomes.fill_append(append, batch, Standing("acme", RetryPolicy(3, 1.0, 60.0, frozenset()), 0), 0)
    return append


@pytest.mark.parametrize(("event", "kind"), [(DONE, "tool"), (DONE, "step"), (CALL, "intent"), (FAILED, "intent")])
def test_a_record_is_kept_with_the_event_that_stands_for_it(event: pb.TaskEvent, kind: str) -> None:
    assert [step.kind for step in appended(event, "k", kind, 1).steps] == [kind]


@pytest.mark.parametrize(
    ("event", "key", "kind", "index"),
    [
        (DONE, "other", "tool", 1),
        (DONE, "k", "tool", 0),
        (DONE, "k", "tool", 2),
        (DONE, "k", "tool", -1),
        (CALL, "k", "tool", 1),
        (FAILED, "k", "tool", 1),
        (DONE, "k", "intent", 1),
        (CALL, "other", "intent", 1),
        (FAILED, "other", "intent", 1),
        (ANSWERED, "k", "intent", 1),
        (DELTA, "", "intent", 1),
        (DELTA, "", "step", 1),
    ],
)
def test_a_record_without_such_an_event_is_refused(event: pb.TaskEvent, key: str, kind: str, index: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        appended(event, key, kind, index)
    assert refused.value.reason == "STEP_WITHOUT_EVENT"
