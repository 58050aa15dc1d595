import pytest

from agentmesh.api.storage.v1 import task_store_service_pb2 as storage_pb
from agentmesh.api.task.v1 import events_pb2, task_service_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import InvalidRequest, NotFound
from agentmesh_storage import domain as d
from agentmesh_storage import wire

Request = task_service_pb2.ListTasksRequest


def test_states_have_the_contracts_numbers() -> None:
    names = {name.removeprefix("TASK_STATE_"): number for name, number in events_pb2.TaskState.items()}
    assert {state.name: int(state) for state in d.State} == names


@pytest.mark.parametrize(
    "request_",
    [
        Request(states=[99]),  # type: ignore[list-item]
        Request(label="no-equals-sign"),
        Request(page_token="1.abc"),
        Request(page_token="²²²", order=task_service_pb2.TASK_ORDER_END_TIME),
        Request(page_token="²." + "x", order=task_service_pb2.TASK_ORDER_END_TIME),
        Request(page_token="9" * 30 + ".x", order=task_service_pb2.TASK_ORDER_END_TIME),
        Request(page_token="0198-abc", order=task_service_pb2.TASK_ORDER_END_TIME),
    ],
)
def test_a_list_request_that_no_list_answers_is_an_invalid_argument(request_: Request) -> None:
    with pytest.raises(InvalidRequest):
        wire.from_list_request("acme", request_)


def test_times_that_no_database_can_hold_are_bounded() -> None:
    request = Request()
    request.created_after.seconds, request.created_before.seconds = -(2**62), 2**62
    filter = wire.from_list_request("acme", request)
    assert filter.created_after_ms == -(2**62)
    assert filter.created_before_ms == 2**62


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (-1, 50), (7, 7), (1000, 1000), (5000, 1000)])
def test_a_page_is_50_unless_asked_and_at_most_1000(asked: int, given: int) -> None:
    assert wire.page_size_of(asked) == given


def test_usage_is_shown_also_without_a_call_to_a_model() -> None:
    task = d.Task(id="t", tenant="acme", agent="a", spec=b"", create_ms=0, usage=d.Usage(input_tokens=3))
    assert wire.to_task(task).usage == types_pb2.Usage(input_tokens=3)


def test_a_mutation_without_a_change_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        wire.from_mutation(storage_pb.Mutation(tenant="acme"), "")


def test_a_refusal_is_a_result_of_its_own() -> None:
    result = wire.to_result(NotFound("there is no such task", reason="TASK_NOT_FOUND"))
    assert result.error.code == 5
    assert not result.task_id
