"""Each firing of a schedule makes its task exactly once, whatever number of storages fires it and which of them die."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentmesh.client import AsyncClient
from agentmesh.kit import names
from tests.e2e.test_schedules import counts, due_of, made_by, until
from tests.integration.conftest import Start
from tests.support.fleet import Fleet

SCHEDULES = 5
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def fleet(start: Start) -> Fleet:
    """Two of everything, but one storage over SQLite."""
    return start()


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[AsyncClient]:
    """A client of the routers."""
    await asyncio.to_thread(fleet.wait_serving)
    async with AsyncClient(fleet.router) as made:
        yield made


async def test_schedules_fire_each_time_once_while_storages_come_and_go(fleet: Fleet, client: AsyncClient) -> None:
    storages = fleet.names_of(names.STORAGE)
    made = [
        await client.create_schedule("echo", "tick", every_s=1, overlap="allow", catch_up_s=120)
        for _ in range(SCHEDULES)
    ]
    first = made[0].id
    for least, victim in enumerate(storages * 2, start=1):
        await until(lambda tasks, least=least: len(tasks) >= 2 * least, client, first)  # type: ignore[misc]
        await asyncio.to_thread(fleet.kill, victim)
    # None is left for a while: what was due then is made up for.
    for name in storages:
        await asyncio.to_thread(fleet.kill, name, start=False)
    await asyncio.sleep(2.5)
    for name in storages:
        await asyncio.to_thread(fleet.start, name)
    back = len(await made_by(client, first))
    await until(lambda tasks: len(tasks) >= back + 3, client, first)
    for schedule in made:
        ended = await client.pause_schedule(schedule.id)
        tasks = await made_by(client, schedule.id)
        created = schedule.create_time.ToMilliseconds()
        assert [due_of(task) - created for task in tasks] == [1000 * n for n in range(1, len(tasks) + 1)]
        assert counts(ended) == (len(tasks), 0, 0)
        for task in tasks:
            assert (await client.result(task.id)).text == "tick"
