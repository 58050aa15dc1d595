"""The fast lane: many tasks over one call, each with its own events, whatever happens to the call."""

import asyncio

import pytest

from agentmesh.client import AsyncClient
from agentmesh.client.ride import MAX_BEHIND
from agentmesh.kit.errors import Canceled, InvalidRequest, ResourceExhausted, Unavailable
from tests.support.fake_mesh import FakeMesh, mesh_at, sequences

COUNT = {"count": 10}


async def test_many_tasks_share_one_call_and_get_their_own_results() -> None:
    mesh = FakeMesh()
    async with mesh_at(mesh) as address, AsyncClient(address) as client, client.lane(max_in_flight=50) as lane:
        results = await asyncio.gather(*(lane.run("echo", f"task {number}") for number in range(200)))
    assert [result.text for result in results] == [f"task {number}" for number in range(200)]
    assert mesh.calls["RunTasks"] == 1
    assert len(mesh.by_request) == 200


async def test_events_of_a_task_come_once_and_in_order() -> None:
    async with mesh_at(FakeMesh()) as address, AsyncClient(address) as client, client.lane() as lane:
        events = [event async for event in lane.stream("echo", "hi", parameters=COUNT)]
    assert sequences(events) == list(range(1, 14))


@pytest.mark.parametrize("break_after", [[0], [5], [40, 3, 0, 17], [1, 1, 1, 1]])
async def test_broken_call_loses_and_doubles_nothing(break_after: list[int]) -> None:
    mesh = FakeMesh(break_after=list(break_after), overlap=2)
    async with mesh_at(mesh) as address, AsyncClient(address) as client, client.lane() as lane:
        results = await asyncio.gather(*(lane.run("echo", f"{number}", parameters=COUNT) for number in range(20)))
    for result in results:
        assert sequences(result.events) == list(range(1, 14))
    assert len(mesh.logs) == 20
    assert mesh.calls["RunTasks"] == len(break_after) + 1


async def test_submit_whose_acceptance_was_lost_is_the_same_task() -> None:
    mesh = FakeMesh(lose_acceptance=2)
    async with mesh_at(mesh) as address, AsyncClient(address) as client, client.lane() as lane:
        assert (await lane.run("echo", "hi")).completed
    assert mesh.calls["submit"] == 3
    assert len(mesh.logs) == 1


async def test_refused_task_fails_alone() -> None:
    async with mesh_at(FakeMesh()) as address, AsyncClient(address) as client, client.lane() as lane:
        good, bad = await asyncio.gather(lane.run("echo", "hi"), lane.run("unknown", "hi"), return_exceptions=True)
    assert not isinstance(good, BaseException)
    assert good.text == "hi"
    assert isinstance(bad, InvalidRequest)
    assert bad.violations == (("spec.agent", "is not known"),)


async def test_submit_refused_as_unavailable_is_repeated_and_other_refusals_are_not() -> None:
    mesh = FakeMesh(refuse_first=[Unavailable("storage is away"), ResourceExhausted("full")])
    async with mesh_at(mesh) as address, AsyncClient(address) as client, client.lane() as lane:
        with pytest.raises(ResourceExhausted):
            await lane.run("echo", "hi")
        assert (await lane.run("echo", "hi")).completed
    assert mesh.calls["submit"] == 3


async def test_mesh_out_of_reach_fails_the_tasks_that_wait_and_later_ones_try_again() -> None:
    async with AsyncClient("127.0.0.1:1", retry_for_s=0.2) as client, client.lane() as lane:
        for _ in range(2):
            async with asyncio.timeout(10):
                with pytest.raises(Unavailable):
                    await lane.run("echo", "hi")


async def test_closing_ends_what_waits() -> None:
    mesh = FakeMesh(held=asyncio.Event())
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        async with client.lane() as lane:
            waiting = asyncio.create_task(lane.run("echo", "hi"))
            while not mesh.logs:
                await asyncio.sleep(0.01)
        with pytest.raises(Canceled):
            await waiting


async def test_task_that_is_given_up_is_taken_out_of_the_call() -> None:
    mesh = FakeMesh(held=asyncio.Event())
    async with mesh_at(mesh) as address, AsyncClient(address) as client, client.lane(max_in_flight=1) as lane:
        given_up = asyncio.create_task(lane.run("echo", "hi"))
        while not lane.accepted:
            await asyncio.sleep(0.01)
        given_up.cancel()
        await asyncio.wait({given_up})
        assert mesh.held is not None
        mesh.held.set()
        assert (await lane.run("echo", "next")).text == "next"
    assert mesh.calls["unwatch"] == 1


async def test_slow_reader_is_read_again_instead_of_filling_the_memory() -> None:
    mesh = FakeMesh()
    count = 3 * MAX_BEHIND
    async with mesh_at(mesh) as address, AsyncClient(address) as client, client.lane() as lane:
        seen = []
        async for event in lane.stream("echo", "hi", parameters={"count": count}):
            seen.append(event.sequence)
            if event.sequence == 1:
                # The others of the lane go on while this reader sleeps on its events.
                assert (await lane.run("echo", "other")).completed
    assert seen == list(range(1, count + 4))
    assert mesh.watched_after
    assert mesh.calls["unwatch"] >= 1


async def test_request_id_in_use_is_refused() -> None:
    mesh = FakeMesh(held=asyncio.Event())
    async with mesh_at(mesh) as address, AsyncClient(address) as client, client.lane() as lane:
        first = asyncio.create_task(lane.run("echo", "hi", request_id="same"))
        await asyncio.sleep(0)
        with pytest.raises(InvalidRequest):
            await lane.run("echo", "hi", request_id="same")
        assert mesh.held is not None
        mesh.held.set()
        assert (await first).completed


async def test_task_too_large_for_a_message_is_refused_without_harm_to_the_others() -> None:
    async with mesh_at(FakeMesh()) as address, AsyncClient(address) as client, client.lane() as lane:
        with pytest.raises(InvalidRequest):
            await lane.run("echo", "x" * 4_000_000)
        assert (await lane.run("echo", "hi")).completed
