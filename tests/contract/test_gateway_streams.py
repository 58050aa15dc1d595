"""What readers of the gateway's event streams see, whatever dies meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from agentmesh.api.task.v1 import events_pb2, task_service_pb2
from agentmesh.kit.errors import OutOfRange, WrongState
from agentmesh_gateway.settings import Bounds
from tests.unit.gateway.fake_router import COMPLETED, Log, text
from tests.unit.gateway.running import Running, running

WATCH = "/v1/tasks/t-1:watch"
STREAM = {"requestId": "r-1", "spec": {"agent": "echo", "prompt": "hello"}}


@pytest.fixture
async def mesh():
    async with running() as made:
        made.tasks.logs["t-1"] = Log("t-1")
        yield made


@dataclass
class Frame:
    event: str = ""
    id: str = ""
    data: Any = None
    comment: str = ""


class Reader:
    """Reads frames of one response."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def frames(self) -> AsyncIterator[Frame]:
        frame = Frame()
        async for line in self._lines:
            if not line:
                if frame != Frame():
                    yield frame
                frame = Frame()
            elif line.startswith(":"):
                frame.comment = line[1:].strip()
            else:
                name, _, value = line.partition(": ")
                if name != "retry":
                    setattr(frame, name, json.loads(value) if name == "data" else value)

    async def take(self, count: int) -> list[Frame]:
        found: list[Frame] = []
        async with asyncio.timeout(5):
            async for frame in self.frames():
                found.append(frame)
                if len(found) == count:
                    break
        return found

    async def rest(self) -> list[Frame]:
        async with asyncio.timeout(15):
            return [frame async for frame in self.frames()]


@asynccontextmanager
async def reading(mesh: Running, path: str = WATCH, **request: Any) -> AsyncIterator[Reader]:
    method = "POST" if "json" in request else "GET"
    async with mesh.client.stream(method, path, **request) as response:
        yield Reader(response)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_watch_sends_one_frame_an_event_with_name_sequence_and_place(mesh: Running):
    mesh.tasks.logs["t-1"].say(text("one\ntwo\u2028three"), COMPLETED)
    async with reading(mesh) as reader:
        assert reader.response.headers["content-type"] == "text/event-stream"
        frames = await reader.rest()
    assert [(f.event, f.id) for f in frames] == [("state_changed", "1"), ("text_delta", "2"), ("state_changed", "3")]
    assert frames[1].data == {
        "taskId": "t-1",
        "sequence": "2",
        "attempt": 1,
        "textDelta": {"text": "one\ntwo\u2028three"},
    }


async def test_events_arrive_as_they_happen(mesh: Running):
    async with reading(mesh) as reader:
        await reader.take(1)
        for number in range(3):
            mesh.tasks.logs["t-1"].say(text(str(number)))
            [frame] = await reader.take(1)
            assert frame.data["textDelta"]["text"] == str(number)


async def test_a_stream_submits_and_watches(mesh: Running):
    async with reading(mesh, "/v1/tasks:stream", json=STREAM) as reader:
        [first] = await reader.take(1)
        mesh.tasks.logs[first.data["taskId"]].say(COMPLETED)
        assert [frame.id for frame in await reader.rest()] == ["2"]


@pytest.mark.parametrize("how", ["header", "query", "both"])
async def test_a_watch_goes_on_after_the_last_event_that_the_reader_has(mesh: Running, how: str):
    mesh.tasks.logs["t-1"].say(text("a"), text("b"), COMPLETED)
    path = {"header": WATCH, "query": f"{WATCH}?after_sequence=2", "both": f"{WATCH}?after_sequence=1"}[how]
    headers = {} if how == "query" else {"last-event-id": "2"}
    async with reading(mesh, path, headers=headers) as reader:
        assert [frame.id for frame in await reader.rest()] == ["3", "4"]


async def test_a_repeated_stream_goes_on_in_the_same_task(mesh: Running):
    async with reading(mesh, "/v1/tasks:stream", json=STREAM) as reader:
        [first] = await reader.take(1)
    mesh.tasks.logs[first.data["taskId"]].say(text("a"), COMPLETED)
    async with reading(mesh, "/v1/tasks:stream", json=STREAM, headers={"last-event-id": "1"}) as reader:
        frames = await reader.rest()
    assert [frame.id for frame in frames] == ["2", "3"]
    assert {frame.data["taskId"] for frame in frames} == {first.data["taskId"]}
    assert len(mesh.tasks.by_request) == 1


async def test_a_stream_without_a_request_id_cannot_be_resumed(mesh: Running):
    answer = await mesh.client.post("/v1/tasks:stream", json={"spec": {}}, headers={"last-event-id": "1"})
    assert answer.status_code == 400
    assert "requestId" in answer.text


@pytest.mark.parametrize("header", ["x", "-1", "1.5", "9" * 30])
async def test_a_last_event_id_that_is_no_sequence_is_refused(mesh: Running, header: str):
    answer = await mesh.client.get(WATCH, headers={"last-event-id": header})
    assert answer.status_code == 400
    assert "Last-Event-ID" in answer.text


async def test_a_reader_that_has_everything_is_told_not_to_come_back(mesh: Running):
    mesh.tasks.logs["t-1"].say(COMPLETED)
    answer = await mesh.client.get(WATCH, headers={"last-event-id": "2"})
    assert answer.status_code == 204


async def test_a_refusal_before_the_first_event_has_a_status_of_its_own(mesh: Running):
    absent = await mesh.client.get("/v1/tasks/nobody:watch")
    assert (absent.status_code, absent.headers["content-type"]) == (404, "application/json")
    mesh.tasks.refuse = OutOfRange("the history is gone", metadata={"oldest_sequence": "7"})
    assert (await mesh.client.get(WATCH)).status_code == 400
    await mesh.kill_router()
    assert (await mesh.client.get(WATCH)).status_code == 503


async def test_a_router_that_dies_leaves_no_gap_and_no_double(mesh: Running):
    log = mesh.tasks.logs["t-1"]
    async with reading(mesh) as reader:
        frames = await reader.take(1)
        for number in range(3):
            log.say(text(f"before {number}"))
            frames += await reader.take(1)
            await mesh.kill_router()
            log.say(text(f"while it is gone {number}"))
            await mesh.start_router()
        log.say(COMPLETED)
        frames += await reader.rest()
    assert [frame.id for frame in frames] == [str(n) for n in range(1, 9)]
    said = [frame.data["textDelta"]["text"] for frame in frames[1:-1]]
    assert said == [f"{when} {n}" for n in range(3) for when in ("before", "while it is gone")]


async def test_a_submitting_stream_survives_the_router_with_one_task(mesh: Running):
    body = {"spec": STREAM["spec"]}  # even without a request id
    async with reading(mesh, "/v1/tasks:stream", json=body) as reader:
        [first] = await reader.take(1)
        await mesh.kill_router()
        await mesh.start_router()
        mesh.tasks.logs[first.data["taskId"]].say(text("a"), COMPLETED)
        assert [frame.id for frame in await reader.rest()] == ["2", "3"]
    assert len(mesh.tasks.by_request) == 1
    assert isinstance(mesh.tasks.requests[-1], task_service_pb2.WatchTaskRequest)


async def test_a_stream_that_ends_without_a_terminal_event_is_resumed(mesh: Running):
    mesh.tasks.logs["t-1"].say(*(text(str(n)) for n in range(5)), COMPLETED)
    mesh.tasks.cut_after = [1, 2, 0, 3]
    async with reading(mesh) as reader:
        assert [frame.id for frame in await reader.rest()] == [str(n) for n in range(1, 8)]


async def test_a_router_that_stays_away_ends_the_stream_with_an_error_frame():
    async with running(Bounds(resume_attempts=3, resume_backoff_s=0.01)) as mesh:
        mesh.tasks.logs["t-1"] = Log("t-1")
        async with reading(mesh) as reader:
            await reader.take(1)
            await mesh.kill_router()
            [error] = await reader.rest()
    assert error.event == "error"
    assert error.data["error"]["code"] == 14
    assert error.id == ""  # the reader's last id stays what it was


async def test_a_refusal_in_mid_stream_is_not_tried_again(mesh: Running):
    async with reading(mesh) as reader:
        await reader.take(1)
        await mesh.kill_router()
        mesh.tasks.refuse = WrongState("no", reason="SOMETHING")
        await mesh.start_router()
        [error] = await reader.rest()
    assert error.data["error"]["code"] == 9
    assert len(mesh.tasks.requests) == 2


async def test_a_client_that_leaves_cancels_the_call_to_the_router(mesh: Running):
    async with reading(mesh) as reader:
        await reader.take(1)
        assert mesh.tasks.watching == 1
    await until(lambda: mesh.tasks.watching == 0)
    assert len(mesh.tasks.requests) == 1  # it cancels the call, not the task


async def test_a_task_that_should_end_with_its_reader_does_even_after_the_router_was_lost(mesh: Running):
    body = {**STREAM, "cancelOnDisconnect": True}
    async with reading(mesh, "/v1/tasks:stream", json=body) as reader:
        [first] = await reader.take(1)
        await mesh.kill_router()
        await mesh.start_router()
        mesh.tasks.logs[first.data["taskId"]].say(text("a"))
        await reader.take(1)
    await until(lambda: isinstance(mesh.tasks.requests[-1], task_service_pb2.CancelTaskRequest))
    assert mesh.tasks.requests[-1].task_id == first.data["taskId"]


async def test_a_silent_stream_says_that_it_is_alive():
    async with running(Bounds(heartbeat_s=0.1, first_event_s=0.1)) as mesh:
        mesh.tasks.logs["t-1"] = Log("t-1")
        async with reading(mesh, f"{WATCH}?after_sequence=1") as reader:
            frames = await reader.take(3)
    assert [frame.comment for frame in frames] == ["still here"] * 3


async def test_a_client_that_wants_json_gets_a_line_an_event(mesh: Running):
    mesh.tasks.logs["t-1"].say(text("a"), COMPLETED)
    answer = await mesh.client.get(WATCH, headers={"accept": "application/json"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["sequence"] for line in answer.text.splitlines()] == ["1", "2", "3"]


async def test_a_number_that_json_cannot_hold_does_not_make_a_task_unreadable(mesh: Running):
    odd = events_pb2.TaskEvent(tool_result=events_pb2.ToolResult(name="mean"))
    odd.tool_result.result.struct_value.update({"mean": float("nan"), "list": [1.5, float("-inf")]})
    mesh.tasks.logs["t-1"].say(odd, COMPLETED)
    async with reading(mesh) as reader:
        frames = await reader.rest()
    assert frames[1].data["toolResult"]["result"] == {"mean": "NaN", "list": [1.5, "-Infinity"]}
    assert [frame.id for frame in frames] == ["1", "2", "3"]


async def test_a_stopping_gateway_ends_its_streams_cleanly(mesh: Running):
    async with reading(mesh) as reader:
        await reader.take(1)
        mesh.stop.set()
        assert await reader.rest() == []  # and not a protocol error
    assert mesh.done is not None
    await asyncio.wait_for(mesh.done, 3)
    assert mesh.tasks.watching == 0


async def test_a_slow_reader_does_not_make_the_gateway_hold_the_log(mesh: Running):
    mesh.tasks.logs["t-1"].say(*(text("x" * 100_000) for _ in range(300)))
    sent = 0
    follow = mesh.tasks._follow

    async def counted(task_id: str, after: int) -> AsyncIterator[events_pb2.EventChunk]:
        nonlocal sent
        async for chunk in follow(task_id, after):
            sent += 1
            yield chunk

    mesh.tasks._follow = counted  # type: ignore[method-assign]
    _, writer = await asyncio.open_connection("127.0.0.1", mesh.port, limit=1024)
    writer.write(f"GET {WATCH} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    await until(lambda: sent > 0)
    await asyncio.sleep(0.5)
    assert sent < 150  # of 300: sockets and windows hold some, the gateway nothing more
    writer.close()
    await until(lambda: mesh.tasks.watching == 0)
