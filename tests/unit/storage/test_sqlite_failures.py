"""What a disk that fails does to the SQLite backend: nothing half done, and service again once it is well."""

import os
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentmesh.kit.errors import Unavailable
from agentmesh_storage import domain as d
from agentmesh_storage.adapters.sqlite.migrate import migrate
from agentmesh_storage.adapters.sqlite.store import SqliteTaskStore
from agentmesh_storage.adapters.sqlite.writer import Writer
from agentmesh_storage.rules import Rules
from tests.contract.task_store_driver import MAX_LOSSES, Driver


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    store = SqliteTaskStore(tmp_path / "tasks.db", Rules(max_losses=MAX_LOSSES))
    yield Driver(store)
    await store.aclose()


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """Make the system refuse writes beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_commit_that_the_disk_refuses_leaves_nothing_and_the_next_one_works(
    driver: Driver, tmp_path: Path
) -> None:
    before = await driver.create(spec=bytes(50_000))
    wal = tmp_path / "tasks.db-wal"
    with no_file_grows_beyond(os.path.getsize(wal) + 4096):
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                await driver.group(driver.new(), driver.new(spec=bytes(200_000)))
            assert refused.value.reason == "STORAGE_WRITE_FAILED"
            assert "tasks" not in refused.value.message
        assert (await driver.task(before)).id == before  # reading goes on
    page = await driver.store.list_tasks(d.TaskFilter("acme", 100))
    assert [task.id for task in page.tasks] == [before]
    after = await driver.create()
    assert (await driver.task(after)).id == after


async def test_a_claim_that_the_disk_refuses_starts_no_attempt(driver: Driver, tmp_path: Path) -> None:
    await driver.runner()
    tasks = [await driver.create() for _ in range(40)]
    with no_file_grows_beyond(os.path.getsize(tmp_path / "tasks.db-wal")), pytest.raises(Unavailable):
        await driver.claim(40)
    assert {(await driver.task(task)).attempt for task in tasks} == {0}
    assert len(await driver.claim(40)) == 40


async def test_a_database_that_another_process_has_locked_is_unavailable_and_then_well(
    driver: Driver, tmp_path: Path
) -> None:
    connection = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    impatient = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
    impatient.execute("PRAGMA busy_timeout = 0")
    try:
        with pytest.raises(sqlite3.OperationalError):
            Writer(impatient, Rules(max_losses=1)).commit([d.Mutation("acme", driver.new())], driver.now)
        assert not impatient.in_transaction
        connection.execute("ROLLBACK")
        outcomes, _ = Writer(impatient, Rules(max_losses=1)).commit([d.Mutation("acme", driver.new())], driver.now)
        assert len(outcomes) == 1
    finally:
        impatient.close()
        connection.close()


def test_a_bug_in_the_middle_of_a_transaction_rolls_it_back(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
    migrate(connection)
    writer = Writer(connection, Rules(max_losses=1))
    twins = [d.Task(id="same", tenant="acme", agent="echo", spec=b"", create_ms=0) for _ in range(2)]
    writer.commit([d.Mutation("acme", d.CreateTask(twins[0], {}))], 1)
    other = d.Task(id="other", tenant="acme", agent="echo", spec=b"", create_ms=0)
    with pytest.raises(sqlite3.IntegrityError):
        writer.commit([d.Mutation("acme", d.CreateTask(task, {})) for task in (other, twins[1])], 1)
    assert not connection.in_transaction
    assert connection.execute("SELECT id FROM tasks").fetchall() == [("same",)]
    connection.close()


async def test_what_was_committed_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    store = SqliteTaskStore(tmp_path / "tasks.db", Rules(max_losses=MAX_LOSSES))
    driver = Driver(store)
    task = await driver.started()
    await driver.do(driver.says(task, "a"))
    log = await driver.log(task)
    await store.aclose()
    again = SqliteTaskStore(tmp_path / "tasks.db", Rules(max_losses=MAX_LOSSES), create_tables=False)
    assert await Driver(again).log(task) == log
    await again.aclose()
