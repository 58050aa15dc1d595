"""The keeper fires with each sweep, and tells routers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentmesh.kit.ids import new_id
from agentmesh_storage import domain as d
from agentmesh_storage.adapters.schedule_rows import BATCH
from agentmesh_storage.schedules import CreateSchedule, Schedule
from tests.unit.storage.test_keeper import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.keeper.aclose()


def every_second() -> d.Mutation:
    return d.Mutation("acme", CreateSchedule(Schedule(new_id(), "acme", b"", b"", "echo", interval_ms=1000)))


async def test_all_that_is_due_is_made_in_one_go_and_routers_hear_of_it(bench: Bench) -> None:
    count = 2 * BATCH + 1
    await bench.keeper.commit([every_second() for _ in range(count)])
    bench.clock.now += 1000
    with bench.keeper.watching("router-1") as watcher:
        await bench.keeper.fire()
        heads, missed = await watcher.heads()
    assert (len(heads), missed) == (count, False)
    page = await bench.store.list_tasks(d.TaskFilter("acme", 1000))
    assert {task.id for task in page.tasks} == {head.task_id for head in heads}


async def test_sweeping_fires(bench: Bench) -> None:
    await bench.keeper.commit([every_second()])
    bench.clock.now += 1000
    sweeping = asyncio.create_task(bench.keeper.sweep_forever(0.0))
    while not (await bench.store.list_tasks(d.TaskFilter("acme", 10))).tasks:
        await asyncio.sleep(0)
    sweeping.cancel()
    await asyncio.wait({sweeping})
