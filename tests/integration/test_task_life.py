"""A task's life over real processes: agents ask, wait, spawn, fail, are cancelled and run out of time."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from google.protobuf.duration_pb2 import Duration

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.clock import timestamp
from agentmesh.kit.errors import MeshError, from_rpc_error, from_status
from agentmesh.kit.rpc_client import open_channel
from agentmesh.sdk.agent import to_struct
from tests.support import agents_for_tests
from tests.support.mesh import Mesh
from tests.support.reading import Log, echo

State = events_pb2.TaskState
OnEvent = Callable[[str, events_pb2.TaskEvent], Awaitable[None]]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh with the agents of the tests."""
    agents = str(Path(agents_for_tests.__file__))
    with Mesh(tmp_path_factory.mktemp("mesh"), arguments=["--agents", agents]) as running:
        yield running


@pytest.fixture
async def stub(mesh: Mesh) -> AsyncIterator["pb_grpc.TaskServiceAsyncStub"]:
    """A client of the mesh."""
    async with open_channel(mesh.router) as channel:
        yield pb_grpc.TaskServiceStub(channel)


async def run(stub: "pb_grpc.TaskServiceAsyncStub", spec: task_pb2.TaskSpec, on_event: OnEvent | None = None) -> Log:
    """Run a task to its end, telling each event as it comes."""
    log = Log()
    async for response in stub.StreamTask(pb.StreamTaskRequest(spec=spec), timeout=40):
        for chunk in response.chunks:
            log.add(chunk)
            for event in chunk.events:
                if on_event is not None:
                    await on_event(chunk.task_id, event)
    return log


def task(agent: str, prompt: str = "do it", **fields: object) -> task_pb2.TaskSpec:
    return task_pb2.TaskSpec(agent=agent, prompt=prompt, **fields)  # type: ignore[arg-type]


def end_of(log: Log) -> events_pb2.StateChanged:
    return log.entries[-1][2].state_changed


def reason_of(log: Log) -> str:
    return from_status(end_of(log).error).reason


def answer(text: str) -> types_pb2.Message:
    return types_pb2.Message(parts=[types_pb2.Part(text=text)])


async def refusal(call: Awaitable[object]) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return from_rpc_error(raised.value)


async def test_events_are_numbered_from_1_and_end_with_the_only_terminal_state(stub) -> None:
    log = await run(stub, echo(count=3))
    kinds = [event.WhichOneof("payload") for _, _, event in log.entries]
    assert kinds == ["state_changed", "attempt_started", "state_changed", *["message"] * 3, "state_changed"]
    assert end_of(log).state == State.TASK_STATE_COMPLETED


async def test_watching_from_any_sequence_gives_the_exact_suffix(stub) -> None:
    log = await run(stub, echo(count=5))
    for after in range(log.last_sequence + 1):
        seen = Log()
        async for response in stub.WatchTask(pb.WatchTaskRequest(task_id=log.task_id, after_sequence=after)):
            for chunk in response.chunks:
                seen.entries.extend((chunk.first_sequence + i, chunk.attempt, e) for i, e in enumerate(chunk.events))
        assert seen.entries == log.entries[after:]


@pytest.mark.parametrize("after", [-1, 10_000])
async def test_watching_from_a_sequence_that_cannot_be_is_refused(stub, after: int) -> None:
    log = await run(stub, echo())

    async def watch() -> None:
        async for _ in stub.WatchTask(pb.WatchTaskRequest(task_id=log.task_id, after_sequence=after)):
            pass

    error = await refusal(watch())
    assert error.violations[0][0] == "after_sequence"


async def test_a_repeated_request_is_the_same_task_and_another_body_is_refused(stub) -> None:
    request_id = str(uuid.uuid4())
    submits = (stub.SubmitTask(pb.SubmitTaskRequest(request_id=request_id, spec=echo())) for _ in range(64))
    ids = {answer.task.id for answer in await asyncio.gather(*submits)}
    assert len(ids) == 1
    error = await refusal(stub.SubmitTask(pb.SubmitTaskRequest(request_id=request_id, spec=echo("other"))))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_an_agent_asks_and_goes_on_with_the_answer_given_once(stub) -> None:
    refused: list[MeshError] = []

    async def on_event(task_id: str, event: events_pb2.TaskEvent) -> None:
        if event.state_changed.state == State.TASK_STATE_INPUT_REQUIRED:
            given = pb.SendTaskInputRequest(
                task_id=task_id, input_id=event.state_changed.input_request.input_id, message=answer("Ada")
            )
            await stub.SendTaskInput(given)
            refused.append(await refusal(stub.SendTaskInput(given)))

    log = await run(stub, task("asker"), on_event)
    assert end_of(log).result.text == "hello Ada"
    assert [error.reason for error in refused] == ["INPUT_ALREADY_GIVEN"]


async def test_children_work_at_once_and_the_parent_gets_their_results(stub) -> None:
    log = await run(stub, task("parent"))
    assert end_of(log).result.text == "child 0 child 1 child 2"
    children = [event.child_task for _, _, event in log.entries if event.HasField("child_task")]
    assert len({child.task_id for child in children}) == 3
    assert sum(child.state == State.TASK_STATE_COMPLETED for child in children) == 3


async def test_cancelling_a_parent_cancels_its_children(stub) -> None:
    children: list[str] = []

    async def on_event(task_id: str, event: events_pb2.TaskEvent) -> None:
        if event.HasField("child_task") and not children:
            children.append(event.child_task.task_id)
            await stub.CancelTask(pb.CancelTaskRequest(task_id=task_id))

    log = await run(stub, task("slow_parent"), on_event)
    assert end_of(log).state == State.TASK_STATE_CANCELED
    child = Log()
    async for response in stub.WatchTask(pb.WatchTaskRequest(task_id=children[0]), timeout=10):
        for chunk in response.chunks:
            child.add(chunk)
    assert end_of(child).state == State.TASK_STATE_CANCELED


async def test_cancel_is_idempotent_and_refused_after_another_end(stub) -> None:
    async def cancel(task_id: str, event: events_pb2.TaskEvent) -> None:
        if event.HasField("message"):
            await stub.CancelTask(pb.CancelTaskRequest(task_id=task_id))

    log = await run(stub, task("sleeper"), cancel)
    assert end_of(log).state == State.TASK_STATE_CANCELED
    again = await stub.CancelTask(pb.CancelTaskRequest(task_id=log.task_id))
    assert again.task.state == State.TASK_STATE_CANCELED
    done = await run(stub, echo())
    error = await refusal(stub.CancelTask(pb.CancelTaskRequest(task_id=done.task_id)))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_ENDED")


async def test_cancel_ends_the_process_of_an_agent_that_blocks(stub) -> None:
    async def cancel(task_id: str, event: events_pb2.TaskEvent) -> None:
        if event.HasField("message"):
            await stub.CancelTask(pb.CancelTaskRequest(task_id=task_id))

    log = await run(stub, task("blocker"), cancel)
    assert end_of(log).state == State.TASK_STATE_CANCELED
    host = int(log.messages()[0].rpartition(" ")[2])
    async with asyncio.timeout(10):
        while psutil.pid_exists(host) and psutil.Process(host).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("agent", ["sleeper", "blocker"])
async def test_a_task_ends_when_its_time_is_up(stub, agent: str) -> None:
    log = await run(stub, task(agent, timeout=Duration(seconds=1)))
    assert (end_of(log).state, reason_of(log)) == (State.TASK_STATE_FAILED, "TASK_TIMEOUT")


async def test_a_task_that_says_nothing_for_too_long_is_stopped(stub) -> None:
    once = task_pb2.RetryPolicy(max_attempts=1)
    log = await run(stub, task("sleeper", idle_timeout=Duration(seconds=1), retry=once))
    assert reason_of(log) == "IDLE_TIMEOUT"


async def test_a_task_for_later_waits_and_can_be_cancelled_before_it_starts(stub) -> None:
    later = timestamp(2_000_000_000_000)
    spec = task("echo", start_time=later)
    submitted = await stub.SubmitTask(pb.SubmitTaskRequest(spec=spec))
    assert submitted.task.state == State.TASK_STATE_SUBMITTED
    canceled = await stub.CancelTask(pb.CancelTaskRequest(task_id=submitted.task.id))
    assert canceled.task.state == State.TASK_STATE_CANCELED


async def test_an_agent_that_kills_its_process_is_tried_again(stub) -> None:
    log = await run(stub, task("dier"))
    assert (end_of(log).result.text, log.attempts) == ("attempt 2", [1, 2])


async def test_attempts_are_bounded_and_the_reason_says_so(stub) -> None:
    retry = task_pb2.RetryPolicy(max_attempts=2, initial_backoff=Duration(nanos=1_000_000))
    log = await run(stub, task("echo", parameters=to_struct({"fail_at": 0}), retry=retry))
    assert (log.attempts, reason_of(log)) == ([1, 2], "ATTEMPTS_EXHAUSTED")
    assert from_status(end_of(log).error).metadata["last_reason"] == "ECHO_FAILED"


@pytest.mark.parametrize(
    ("agent", "state", "reason"),
    [
        ("rejecter", State.TASK_STATE_REJECTED, "NOT_MINE"),
        ("loser", State.TASK_STATE_FAILED, "LOST"),
    ],
)
async def test_an_end_that_the_agent_calls_final_is_not_tried_again(stub, agent: str, state: int, reason: str) -> None:
    log = await run(stub, task(agent))
    assert (end_of(log).state, reason_of(log), log.attempts) == (state, reason, [1])


async def test_the_text_of_an_agents_exception_reaches_nobody(stub) -> None:
    log = await run(stub, task("buggy", retry=task_pb2.RetryPolicy(max_attempts=1)))
    assert reason_of(log) == "AGENT_FAILED"
    assert "canary" not in str(log.entries)


async def test_journaled_values_are_the_same_in_the_next_attempt(stub) -> None:
    log = await run(stub, task("journalist"))
    assert log.attempts == [1, 2]
    steps = [event.step_completed.key for _, _, event in log.entries if event.HasField("step_completed")]
    assert len(steps) == len(set(steps)) == 6
    tools = [event for _, _, event in log.entries if event.HasField("tool_result")]
    assert len(tools) == 1


async def test_retrying_with_the_journal_repeats_no_step(stub) -> None:
    log = await run(stub, task("journalist"))
    retried = await stub.RetryTask(pb.RetryTaskRequest(task_id=log.task_id, inherit_journal=True))
    assert retried.task.retry_of == log.task_id
    again = Log()
    async for response in stub.WatchTask(pb.WatchTaskRequest(task_id=retried.task.id), timeout=20):
        for chunk in response.chunks:
            again.add(chunk)
    assert end_of(again).result.data == end_of(log).result.data
    assert not [event for _, _, event in again.entries if event.HasField("step_completed")]


async def test_tasks_of_one_context_share_history(stub) -> None:
    context = str(uuid.uuid4())
    await run(stub, task("reader", "first", context_id=context))
    log = await run(stub, task("reader", "second", context_id=context))
    assert list(end_of(log).result.data["history"]) == ["first", "first"]


async def test_wrong_fields_are_all_named(stub) -> None:
    spec = task("", "", priority=99, timeout=Duration(seconds=-1), artifact_ids=["nonsense"])
    error = await refusal(stub.SubmitTask(pb.SubmitTaskRequest(spec=spec)))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    fields = {field for field, _ in error.violations}
    assert fields == {"spec.agent", "spec.priority", "spec.timeout", "spec.artifact_ids[0]"}


async def test_an_unknown_agent_is_refused_with_those_that_are_known(stub) -> None:
    error = await refusal(stub.SubmitTask(pb.SubmitTaskRequest(spec=task("nobody"))))
    assert error.reason == "AGENT_NOT_FOUND"
    assert "echo" in error.violations[0][1]


async def test_parameters_are_held_against_the_agents_schema(stub) -> None:
    spec = task("echo", parameters=to_struct({"count": -1, "colour": "red"}))
    error = await refusal(stub.SubmitTask(pb.SubmitTaskRequest(spec=spec)))
    assert error.reason == "PARAMETERS_INVALID"
    assert ("spec.parameters.count", "-1 is less than the minimum of 0") in error.violations


def nested(levels: int) -> dict[str, object]:
    return {"deeper": nested(levels - 1)} if levels else {"end": 1}


@pytest.mark.parametrize("constraints", [nested(16), nested(28), {"list": [float("nan")]}])
async def test_data_that_others_could_not_read_is_refused(stub, constraints: dict[str, object]) -> None:
    spec = task("echo")
    spec.constraints.update(constraints)
    error = await refusal(stub.SubmitTask(pb.SubmitTaskRequest(spec=spec)))
    assert error.violations[0][0] == "spec.constraints"
    await stub.ListTasks(pb.ListTasksRequest())


async def test_a_refusal_of_much_that_is_wrong_is_still_an_answer(stub) -> None:
    spec = task("echo", artifact_ids=["\x00" * 1000] * 500)
    error = await refusal(stub.SubmitTask(pb.SubmitTaskRequest(spec=spec)))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    spec = task("echo", parameters=to_struct({"count": "x" * 20_000}))
    error = await refusal(stub.SubmitTask(pb.SubmitTaskRequest(spec=spec)))
    assert error.reason == "PARAMETERS_INVALID"


@pytest.mark.parametrize("agent", ["self_canceler", "inline_self_canceler", "exiter"])
async def test_an_agent_that_cancels_itself_or_exits_has_failed(stub, agent: str) -> None:
    log = await run(stub, task(agent, retry=task_pb2.RetryPolicy(max_attempts=1)))
    assert (end_of(log).state, reason_of(log)) == (State.TASK_STATE_FAILED, "AGENT_FAILED")


async def test_an_artifact_with_an_odd_name_is_refused_and_its_bytes_are_kept_as_they_are(stub) -> None:
    log = await run(stub, task("namer"))
    assert reason_of(log) == "ARTIFACT_NAME"


async def test_another_tasks_id_and_nonsense_are_the_same_not_found(stub) -> None:
    errors = [
        await refusal(stub.GetTask(pb.GetTaskRequest(task_id=task_id)))
        for task_id in ("nonsense", "", str(uuid.uuid4()))
    ]
    assert {(error.code, error.message) for error in errors} == {(grpc.StatusCode.NOT_FOUND, "there is no such task")}


async def test_a_list_is_paged_without_doubles_or_gaps(stub) -> None:
    label = uuid.uuid4().hex
    submitted = [
        (await stub.SubmitTask(pb.SubmitTaskRequest(spec=task("echo", labels={"run": label})))).task.id
        for _ in range(7)
    ]
    found: list[str] = []
    token = ""
    while True:
        page = await stub.ListTasks(pb.ListTasksRequest(label=f"run={label}", page_size=3, page_token=token))
        found += [one.id for one in page.tasks]
        token = page.next_page_token
        if not token:
            break
    assert found == submitted[::-1]


async def test_run_tasks_answers_every_request_on_one_stream(stub) -> None:
    requests = [
        pb.RunTasksRequest(
            submits=[pb.RunTasksRequest.Submit(request_id=f"{uuid.uuid4()}", spec=echo(count=2)) for _ in range(20)]
        ),
        pb.RunTasksRequest(submits=[pb.RunTasksRequest.Submit(request_id="bad", spec=task("nobody"))]),
        pb.RunTasksRequest(submits=[pb.RunTasksRequest.Submit(spec=echo())]),
        pb.RunTasksRequest(watches=[pb.RunTasksRequest.Watch(task_id=str(uuid.uuid4()))]),
    ]
    logs: dict[str, Log] = {}
    accepted: dict[str, str] = {}
    refused: list[MeshError] = []
    async for response in stub.RunTasks(iter(requests), timeout=30):
        for one in response.accepted:
            accepted[one.task_id] = one.request_id
        refused += [from_status(one.error) for one in response.refused]
        for chunk in response.chunks:
            assert chunk.task_id in accepted
            logs.setdefault(chunk.task_id, Log()).add(chunk)
    assert len(accepted) == len(logs) == 20
    assert all(log.messages() == ["hello", "hello"] for log in logs.values())
    assert sorted(error.reason for error in refused) == ["AGENT_NOT_FOUND", "INVALID_REQUEST", "TASK_NOT_FOUND"]
