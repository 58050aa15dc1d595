"""A broken connection costs a caller nothing but time: no gap, no double, no second task."""

import asyncio
import time

import pytest

from agentmesh.api.task.v1 import events_pb2
from agentmesh.client import AsyncClient, Client
from agentmesh.client.event import SequenceGap, news_in
from agentmesh.kit.errors import InvalidRequest, MeshError, NotFound, ResourceExhausted, Unavailable
from tests.support.fake_mesh import FakeMesh, mesh_at, message, sequences

COUNT = {"count": 10}
WHOLE = list(range(1, 14))


@pytest.mark.parametrize("break_after", [[1], [5], [12], [3, 1, 1], [0, 0, 4, 0, 2]])
async def test_stream_cut_anywhere_yields_each_event_once(break_after: list[int]) -> None:
    mesh = FakeMesh(break_after=break_after)
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        events = [event async for event in client.stream("echo", "hi", parameters=COUNT)]
    assert sequences(events) == WHOLE
    assert events[-1].is_last
    assert len(mesh.logs) == 1


async def test_stream_is_resumed_by_watching_after_the_last_sequence() -> None:
    mesh = FakeMesh(break_after=[5, 3])
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        await client.run("echo", "hi", parameters=COUNT)
    assert mesh.watched_after == [5, 8]
    assert mesh.calls["StreamTask"] == 1


async def test_submit_that_brought_nothing_is_repeated_under_the_same_request_id() -> None:
    mesh = FakeMesh(break_after=[0])
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        result = await client.run("echo", "hi")
    assert result.completed
    assert mesh.calls["StreamTask"] == 2
    assert len(mesh.by_request) == 1


async def test_events_that_come_again_are_dropped() -> None:
    mesh = FakeMesh(break_after=[7], overlap=4)
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        events = [event async for event in client.stream("echo", "hi", parameters=COUNT)]
    assert sequences(events) == WHOLE


def test_chunk_that_overlaps_in_part_is_cut_and_one_that_leaves_a_gap_is_refused() -> None:
    chunk = events_pb2.EventChunk(
        task_id="t", attempt=2, first_sequence=5, events=[message(str(n)) for n in range(5, 9)]
    )
    cut = news_in(chunk, 6)
    assert cut is not None
    assert (cut.first_sequence, cut.attempt, len(cut.events)) == (7, 2, 2)
    assert news_in(chunk, 4) is chunk
    assert news_in(chunk, 8) is None
    with pytest.raises(SequenceGap):
        news_in(chunk, 3)


async def test_unavailable_at_first_is_waited_out() -> None:
    mesh = FakeMesh(refuse_first=[Unavailable("not yet"), Unavailable("not yet")])
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        result = await client.run("echo", "hi")
    assert result.completed
    assert mesh.calls["StreamTask"] == 3


async def test_mesh_that_is_out_of_reach_is_given_up_in_time() -> None:
    started = time.monotonic()
    async with AsyncClient("127.0.0.1:1", retry_for_s=0.4) as client:
        with pytest.raises(Unavailable):
            await client.run("echo", "hi")
    assert time.monotonic() - started < 5


async def test_first_contact_has_a_patience_of_its_own() -> None:
    started = time.monotonic()
    async with AsyncClient("127.0.0.1:1", retry_for_s=60, first_contact_s=0.1) as client:
        with pytest.raises(Unavailable):
            await client.agents()
    assert time.monotonic() - started < 5


async def test_next_address_is_used_when_one_is_out_of_reach() -> None:
    async with mesh_at(FakeMesh()) as address, AsyncClient(f"127.0.0.1:1,{address}") as client:
        assert (await client.run("echo", "hi")).completed
        assert client.address == address


async def test_refusal_is_not_repeated_and_says_its_fields() -> None:
    mesh = FakeMesh()
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        with pytest.raises(InvalidRequest) as raised:
            await client.run("unknown", "hi")
    assert raised.value.violations == (("spec.agent", "is not known"),)
    assert mesh.calls["StreamTask"] == 0


async def test_full_queue_is_told_to_the_caller() -> None:
    mesh = FakeMesh(refuse_first=[ResourceExhausted("full", retry_after_s=1)])
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        with pytest.raises(ResourceExhausted) as raised:
            await client.run("echo", "hi")
    assert raised.value.retry_after_s == 1


async def test_watching_nobodys_task_raises_not_found() -> None:
    async with mesh_at(FakeMesh()) as address, AsyncClient(address) as client:
        with pytest.raises(NotFound):
            [event async for event in client.watch("0197-none")]


async def test_leaving_a_resumed_stream_cancels_the_task_if_that_was_asked_for() -> None:
    mesh = FakeMesh(break_after=[2])
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        stream = client.stream("echo", "hi", parameters=COUNT, cancel_on_disconnect=True)
        async for event in stream:
            if event.sequence == 5:
                break
        await stream.aclose()
        assert mesh.canceled == [event.task_id]


async def test_every_call_shows_the_token() -> None:
    mesh = FakeMesh()
    async with mesh_at(mesh) as address, AsyncClient(address, token="key-1") as client:
        await client.run("echo", "hi")
        await client.agents()
    assert set(mesh.seen_metadata) == {"Bearer key-1"}


async def test_agents_are_read_over_all_pages() -> None:
    async with mesh_at(FakeMesh()) as address, AsyncClient(address) as client:
        assert [agent.name for agent in await client.agents()] == ["echo", "other"]


async def test_more_streams_than_one_connection_takes_all_run() -> None:
    async with mesh_at(FakeMesh()) as address, AsyncClient(address) as client:
        results = await asyncio.gather(*(client.run("echo", str(number)) for number in range(170)))
    assert [result.text for result in results] == [str(number) for number in range(170)]


async def test_result_reads_what_the_task_left() -> None:
    async with mesh_at(FakeMesh()) as address, AsyncClient(address) as client:
        result = await client.run("echo", "hi")
    assert (result.state, result.state_name, result.text) == (events_pb2.TASK_STATE_COMPLETED, "COMPLETED", "hi")
    assert [event.name for event in result.events][:2] == ["state_changed", "attempt_started"]
    result.raise_for_state()


async def test_bad_address_is_refused_before_any_call() -> None:
    with pytest.raises(InvalidRequest):
        AsyncClient("localhost")


async def test_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with mesh_at(FakeMesh()) as address:
        monkeypatch.setenv("AGENTMESH_ADDRESS", address)
        async with AsyncClient() as client:
            assert (await client.run("echo", "hi")).completed


async def test_sync_client_does_the_same_from_a_thread() -> None:
    mesh = FakeMesh(break_after=[4])

    def use(address: str) -> tuple[list[int], str, list[str]]:
        with Client(address) as client:
            events = list(client.stream("echo", "hi", parameters=COUNT))
            names = [agent.name for agent in client.agents()]
            return sequences(events), client.run("echo", "again").text, names

    async with mesh_at(mesh) as address:
        assert await asyncio.to_thread(use, address) == (WHOLE, "again", ["echo", "other"])


async def test_sync_client_raises_what_the_mesh_said() -> None:
    def use(address: str) -> None:
        with Client(address) as client:
            client.get("nobody")

    async with mesh_at(FakeMesh()) as address:
        with pytest.raises(MeshError, match="no such task"):
            await asyncio.to_thread(use, address)
