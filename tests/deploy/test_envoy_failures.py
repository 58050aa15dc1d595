"""What breaks behind Envoy is noticed by Envoy, and by nobody before it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from agentmesh.client import AsyncClient
from agentmesh.client.event import Event
from tests.deploy.conftest import KEYS, bearer, members, trusting
from tests.deploy.envoy import Envoy
from tests.support.fleet import Fleet

pytestmark = pytest.mark.usefixtures("healed")

STREAMS, MESSAGES = 24, 30


@pytest.fixture(scope="module")
def envoy(fleet: Fleet, tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """The shipped Envoy before the mesh."""
    folder = tmp_path_factory.mktemp("envoy")
    with Envoy(folder, tls, routers=fleet.routers, gateways=members(fleet, "gateway")) as started:
        yield started


@pytest.fixture
async def client(envoy: Envoy, tls: Path) -> AsyncIterator[AsyncClient]:
    """The shipped client, with its own patience."""
    async with AsyncClient(envoy.address, token=KEYS["acme"], ca=tls / "ca.crt") as opened:
        yield opened


async def until_health(envoy: Envoy, cluster: str, address: str, *, healthy: bool) -> None:
    """Wait until Envoy thinks so of a member."""
    async with asyncio.timeout(20):
        while (envoy.health_of(cluster)[address] == "healthy") != healthy:
            await asyncio.sleep(0.05)


async def test_a_killed_router_is_noticed_by_nobody(envoy: Envoy, fleet: Fleet, client: AsyncClient) -> None:
    """Streams and submits run while a router dies: each task ends once, no stream has a gap, no user an error."""
    victim = max(
        fleet.names_of("router"), key=lambda name: int(envoy.figures("router", "rq_total")[fleet.address(name)])
    )
    under_way = asyncio.Event()
    parameters = {"count": MESSAGES, "delay_ms": 40}

    async def read(number: int) -> list[Event]:
        events = []
        async for event in client.stream(
            "echo", f"stream {number}", request_id=f"stream-{number}", parameters=parameters
        ):
            events.append(event)
            if len(events) > 5:
                under_way.set()
        return events

    async def submit() -> list[str]:
        """Submit one task after the other, until the streams have ended."""
        ids = []
        while not reading.done():
            ids.append((await client.submit("echo", "one", request_id=f"submit-{len(ids)}")).id)
        return ids

    reading = asyncio.gather(*(read(number) for number in range(STREAMS)))
    submitting = asyncio.create_task(submit())
    await under_way.wait()
    busy = int(envoy.figures("router", "rq_active")[fleet.address(victim)])
    await asyncio.to_thread(fleet.kill, victim, start=False)
    async with client.lane() as lane:
        lane_texts = [result.text for result in await asyncio.gather(*(lane.run("echo", f"{n}") for n in range(20)))]
    streams = await reading
    submitted = await submitting

    assert busy > 0  # it was in the middle of something
    assert lane_texts == [str(n) for n in range(20)]
    for number, events in enumerate(streams):
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert sum(event.name == "message" for event in events) == MESSAGES
        assert events[-1].event.state_changed.result.text.startswith(f"stream {number}")
    assert len(submitted) > 10
    assert len(set(submitted)) == len(submitted)
    results = await asyncio.gather(*(client.result(task_id) for task_id in submitted))
    assert {result.state_name for result in results} == {"COMPLETED"}
    # Exactly once: each request is one task, however often it was sent.
    tasks = (await client.list(page_size=1000)).tasks
    count = Counter(task.request_id for task in tasks)
    assert (
        {count[f"stream-{n}"] for n in range(STREAMS)} == {count[f"submit-{n}"] for n in range(len(submitted))} == {1}
    )

    await until_health(envoy, "router", fleet.address(victim), healthy=False)
    fleet.start(victim)
    await until_health(envoy, "router", fleet.address(victim), healthy=True)


async def test_a_draining_router_gets_no_new_calls(envoy: Envoy, fleet: Fleet, client: AsyncClient) -> None:
    streaming = asyncio.create_task(client.run("echo", "hello", parameters={"count": 20, "delay_ms": 50}))
    await asyncio.to_thread(fleet.drain, "router-1")
    assert (await client.run("echo", "meanwhile")).text == "meanwhile"
    assert (await streaming).state_name == "COMPLETED"


async def test_a_drained_gateway_loses_no_reader_who_comes_back(
    envoy: Envoy, fleet: Fleet, tls: Path, client: AsyncClient
) -> None:
    """Gateways end their streams when they are told to stop; a browser comes back with the last id it has seen."""
    task = await client.submit("echo", "hello", parameters={"count": MESSAGES, "delay_ms": 50})
    seen: list[int] = []
    ended = drained = False
    connections = 0
    async with httpx.AsyncClient(base_url=envoy.url, verify=trusting(tls), headers=bearer(), timeout=30) as http:
        while not ended:
            last = {"last-event-id": str(seen[-1])} if seen else {}
            async with http.stream("GET", f"/v1/tasks/{task.id}:watch", headers=last) as response:
                assert response.status_code == 200
                connections += 1
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    said = json.loads(line[5:])
                    seen.append(int(said["sequence"]))
                    ended = said.get("stateChanged", {}).get("state") == "TASK_STATE_COMPLETED"
                    if len(seen) == 8 and not drained:
                        drained = True
                        serving = envoy.figures("gateway", "rq_active")
                        (name,) = [name for name in fleet.names_of("gateway") if serving[fleet.address(name)] == "1"]
                        assert await asyncio.to_thread(fleet.drain, name) == 0
    assert connections == 2
    assert seen == list(range(1, len(seen) + 1))


async def test_a_killed_gateway_is_left_out(envoy: Envoy, fleet: Fleet, tls: Path) -> None:
    victim = "gateway-2"
    fleet.kill(victim, start=False)
    async with httpx.AsyncClient(base_url=envoy.url, verify=trusting(tls), headers=bearer(), timeout=30) as http:
        answers = [await http.get("/v1/agents") for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
    await until_health(envoy, "gateway", fleet.address(victim), healthy=False)
    fleet.start(victim)
    await until_health(envoy, "gateway", fleet.address(victim), healthy=True)


async def test_a_stream_that_is_cut_for_its_silence_goes_on_at_once(fleet: Fleet, tls: Path, tmp_path: Path) -> None:
    """With a limit of 1 s instead of an hour, and a task that says nothing for longer than that."""
    manager = "static_resources.listeners.0.filter_chains.0.filters.1.typed_config"
    short = (f"{manager}.route_config.virtual_hosts.0.routes.0.route.idle_timeout", "1s")
    where = {"routers": fleet.routers, "gateways": members(fleet, "gateway")}
    with Envoy(tmp_path, tls, **where, changed=[short]) as envoy:
        async with AsyncClient(envoy.address, token=KEYS["acme"], ca=tls / "ca.crt") as client:
            silent = client.stream("echo", "hello", parameters={"count": 2, "delay_ms": 1700})
            sequences = [event.sequence async for event in silent]
        cut = [line for line in envoy.log() if "SI" in str(line["flags"])]
    assert cut
    assert sequences == list(range(1, len(sequences) + 1))
