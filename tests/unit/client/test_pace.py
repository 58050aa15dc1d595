"""A mesh that asks for patience gets it, from the same budget as one that is out of reach."""

import asyncio

import pytest

from agentmesh.client import AsyncClient
from agentmesh.kit.backoff import Backoff
from agentmesh.kit.errors import ResourceExhausted
from tests.support.fake_mesh import FakeMesh, mesh_at


def refused(reason: str, retry_after_s: float | None = 0.01) -> ResourceExhausted:
    return ResourceExhausted("not now", reason=reason, retry_after_s=retry_after_s)


@pytest.mark.parametrize("reason", ["OVERLOADED", "RATE_LIMITED"])
async def test_a_submit_refused_for_its_pace_is_made_again_and_stays_one_task(reason: str) -> None:
    mesh = FakeMesh(refuse_first=[refused(reason), refused(reason), refused(reason)])
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        await client.submit("echo", "hi")
        assert client.address == address
    assert mesh.calls["SubmitTask"] == 4
    assert len(mesh.logs) == 1


async def test_streams_and_lanes_have_the_same_patience() -> None:
    for in_a_lane in (False, True):
        mesh = FakeMesh(refuse_first=[refused("OVERLOADED")] * 2)
        async with mesh_at(mesh) as address, AsyncClient(address) as client, client.lane() as lane:
            assert (await (lane if in_a_lane else client).run("echo", "hi")).completed
        assert len(mesh.logs) == 1


@pytest.mark.parametrize("error", [refused("QUEUE_FULL"), refused("OVERLOADED", None), refused("RESOURCE_EXHAUSTED")])
async def test_what_may_stay_full_or_has_no_hint_is_told_at_once(error: ResourceExhausted) -> None:
    mesh = FakeMesh(refuse_first=[error])
    async with mesh_at(mesh) as address, AsyncClient(address) as client:
        with pytest.raises(ResourceExhausted) as raised:
            await client.run("echo", "hi")
    assert raised.value.reason == error.reason
    assert mesh.calls["StreamTask"] == 1


async def test_a_hint_beyond_the_budget_is_told_at_once() -> None:
    mesh = FakeMesh(refuse_first=[refused("RATE_LIMITED", 3600.0)])
    async with mesh_at(mesh) as address, AsyncClient(address, retry_for_s=5) as client:
        async with asyncio.timeout(4):
            with pytest.raises(ResourceExhausted):
                await client.submit("echo", "hi")


def test_the_server_s_hint_is_kept() -> None:
    backoff = Backoff(60, now=lambda: 0.0, jitter=lambda: 1.0)
    assert [backoff.next_wait_s(refused("OVERLOADED", hint)) for hint in (0.4, 0.0, 1.5)] == [0.4, 0.1, 1.5]
