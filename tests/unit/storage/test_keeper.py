import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from agentmesh.kit.errors import MeshError, Unavailable
from agentmesh_storage import domain as d
from agentmesh_storage.adapters.artifact_files import FolderArtifactFiles
from agentmesh_storage.adapters.sqlite.store import SqliteTaskStore
from agentmesh_storage.ports import News
from agentmesh_storage.rules import Rules
from agentmesh_storage.service import TaskKeeper
from tests.contract.task_store_driver import LEASE_MS, MAX_LOSSES, RUNNER, START_MS, Driver, reasons


class HandClock:
    """A clock that stands still."""

    now = START_MS

    def now_ms(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1000


class CountingStore(SqliteTaskStore):
    """Counts transactions, and refuses them while it is told to."""

    transactions = 0
    broken: Exception | None = None

    async def commit(self, mutations: Sequence[d.Mutation], now_ms: int) -> tuple[list[d.Outcome | MeshError], News]:
        self.transactions += 1
        if self.broken is not None:
            raise self.broken
        return await super().commit(mutations, now_ms)

    async def sweep(self, now_ms: int, *, expire_leases: bool) -> News:
        if self.broken is not None:
            raise self.broken
        return await super().sweep(now_ms, expire_leases=expire_leases)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.store = CountingStore(folder / "tasks.db", Rules(max_losses=MAX_LOSSES))
        files = FolderArtifactFiles(folder / "artifacts")
        self.keeper = TaskKeeper(self.store, files, self.clock, lease_ttl_ms=LEASE_MS)
        self.driver = Driver(self.store)

    def new(self, **fields: object) -> d.Mutation:
        return d.Mutation("acme", self.driver.new(**fields), "router-1")  # type: ignore[arg-type]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.keeper.aclose()


async def test_what_comes_together_shares_a_transaction_and_each_gets_its_own_answer(bench: Bench) -> None:
    stale = d.Mutation("acme", d.CancelTask("nothing"))
    groups = [[bench.new()], [stale, bench.new()], [stale], [bench.new() for _ in range(30)]]
    answers = await asyncio.gather(*(bench.keeper.commit(group) for group in groups))
    assert bench.store.transactions == 1
    assert [reasons(answer) for answer in answers] == [
        [""], ["TASK_NOT_FOUND", ""], ["TASK_NOT_FOUND"], [""] * 30,
    ]  # fmt: skip
    ids = [o.task_id for answer in answers for o in answer if isinstance(o, d.Outcome)]
    assert len(set(ids)) == 32
    assert await bench.keeper.commit([]) == []


async def test_a_transaction_that_fails_fails_everyone_in_it_and_nobody_after(bench: Bench) -> None:
    bench.store.broken = Unavailable("the disk is full", reason="STORAGE_WRITE_FAILED")
    failed = await asyncio.gather(*(bench.keeper.commit([bench.new()]) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in failed] == [Unavailable] * 3
    bench.store.broken = None
    assert len(await bench.keeper.commit([bench.new()])) == 1


async def test_the_first_sweep_of_leases_waits_one_lease_after_the_start(bench: Bench) -> None:
    bench.driver.now -= LEASE_MS  # the runner renewed before storage died
    task = await bench.driver.started()
    bench.clock.now = START_MS + LEASE_MS - 1
    await bench.keeper.sweep()
    assert (await bench.driver.task(task)).state is d.State.WORKING
    bench.clock.now = START_MS + LEASE_MS
    await bench.keeper.sweep()
    assert (await bench.driver.task(task)).state is d.State.SUBMITTED


async def test_a_runner_that_renews_while_the_sweep_waits_keeps_its_tasks(bench: Bench) -> None:
    bench.driver.now -= LEASE_MS
    task = await bench.driver.started()
    bench.driver.now = START_MS + 1
    await bench.driver.runner(RUNNER)
    bench.clock.now = START_MS + LEASE_MS
    await bench.keeper.sweep()
    assert (await bench.driver.task(task)).attempt == 1
    assert (await bench.driver.task(task)).state is d.State.WORKING


@pytest.mark.parametrize("error", [Unavailable("away"), OSError("no permission"), ValueError("a bug")])
async def test_sweeping_survives_whatever_a_sweep_raises(bench: Bench, error: Exception) -> None:
    bench.store.broken = error
    sweeping = asyncio.create_task(bench.keeper.sweep_forever(0.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not sweeping.done()
    bench.store.broken = None
    task = await bench.driver.create(queue_timeout_ms=1)
    bench.clock.now += 10
    while (await bench.driver.task(task)).state is not d.State.FAILED:
        await asyncio.sleep(0)
    sweeping.cancel()
    await asyncio.wait({sweeping})


async def test_a_router_is_told_of_others_commits_once_a_task_and_not_of_its_own(bench: Bench) -> None:
    with bench.keeper.watching("router-1") as mine, bench.keeper.watching("router-2") as other:
        ((outcome,),) = [await bench.keeper.commit([bench.new(claim=RUNNER)])]
        assert isinstance(outcome, d.Outcome)
        for _ in range(2):
            await bench.keeper.commit([d.Mutation("acme", driver_says(bench, outcome.task_id), "router-1")])
        heads, _ = await other.heads()
        assert [head.task_id for head in heads] == [outcome.task_id]
        waiting = asyncio.create_task(mine.heads())
        await asyncio.sleep(0)
        assert not waiting.done()
        await bench.keeper.commit([d.Mutation("acme", d.CancelTask(outcome.task_id), "router-2")])
        (head,), _ = await waiting
        assert (head.state, head.last_sequence) == (d.State.CANCELED, 2)


def driver_says(bench: Bench, task_id: str) -> d.AppendEvents:
    return bench.driver.says(task_id, "x")


async def test_ready_work_is_told_to_whoever_waits_for_it(bench: Bench) -> None:
    with bench.keeper.watching("") as watcher:
        await bench.keeper.commit([bench.new(), bench.new(agent="other"), bench.new(ready_ms=2**42, agent="late")])
        told, _ = await watcher.hints()
    assert told == {"echo", "other"}


async def test_news_that_may_be_lost_make_a_router_look_at_everything(bench: Bench) -> None:
    with bench.keeper.watching("router-1") as watcher:
        bench.keeper.hear(None)
        assert await watcher.heads() == ([], True)


async def test_what_another_process_committed_is_told_like_what_this_one_did(bench: Bench) -> None:
    task = await bench.driver.create()
    with bench.keeper.watching("router-1") as watcher:
        bench.keeper.hear(News(heads=await bench.store.heads([task]), ready_agents={"echo"}))
        heads, missed = await watcher.heads()
        agents, _ = await watcher.hints()
    assert ([head.task_id for head in heads], missed, agents) == ([task], False, {"echo"})


async def test_how_much_waits_is_told_by_tenant(bench: Bench) -> None:
    await bench.keeper.commit([bench.new(), bench.new(), bench.new(ready_ms=2**42)])
    assert await bench.store.backlog(100) == {"acme": 2}
    assert await bench.store.backlog(1) == {"acme": 1}


async def test_closing_commits_what_waits(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    pending = bench.keeper.commit_soon([bench.new()])
    await bench.keeper.aclose()
    (outcome,) = pending.result()
    assert isinstance(outcome, d.Outcome)
