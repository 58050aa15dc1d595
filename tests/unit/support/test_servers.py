"""The servers that tests kill, freeze and start again do survive it, and leave nothing behind."""

import asyncio
import os
import subprocess
import sys
import tempfile

import asyncpg
import psutil
import pytest

from tests.support.postgres import Postgres
from tests.support.redis import RedisServer


async def test_a_new_database_is_empty_and_fsync_is_on(postgres: Postgres) -> None:
    first, second = postgres.new_database(), postgres.new_database()
    connection = await asyncpg.connect(first)
    await connection.execute("CREATE TABLE t (n int)")
    assert await connection.fetchval("SHOW fsync") == "on"
    assert await connection.fetchval("SHOW max_connections") == "100"
    await connection.close()
    other = await asyncpg.connect(second)
    assert await other.fetchval("SELECT to_regclass('t')") is None
    await other.close()


@pytest.mark.parametrize("end", ["stop_immediate", "kill"])
async def test_what_was_committed_outlives_the_server(postgres: Postgres, end: str) -> None:
    url = postgres.new_database()
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
    family = postgres.daemon.family()
    await asyncio.to_thread(getattr(postgres, end))
    assert not any(process.is_running() for process in family)
    with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
        await connection.execute("SELECT 1")
    connection.terminate()
    await asyncio.to_thread(postgres.start)
    assert await asyncio.to_thread(postgres.sql, "SELECT n FROM t", url=url) == "7"


async def test_a_frozen_server_answers_after_it_is_thawed(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.url())
    postgres.freeze()
    asking = asyncio.create_task(connection.fetchval("SELECT 1"))
    stopped = [process.status() for process in postgres.daemon.family()]
    answered = asking.done()
    postgres.thaw()
    answer = await asking
    await connection.close()
    assert set(stopped) - {psutil.STATUS_ZOMBIE} == {psutil.STATUS_STOPPED}
    assert not answered
    assert answer == 1


async def test_connections_are_cut(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.url())
    assert await asyncio.to_thread(postgres.cut_connections) == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await connection.execute("SELECT 1")
    connection.terminate()


def test_redis_forgets_when_it_is_emptied_or_stopped(redis: RedisServer) -> None:
    redis.ask("SET a 1")
    assert redis.ask("EXISTS a") == ":1"
    redis.flush()
    assert redis.ask("EXISTS a") == ":0"
    redis.ask("SET a 1")
    redis.stop()
    redis.start()
    assert redis.ask("EXISTS a") == ":0"


def test_servers_end_with_the_process_that_started_them() -> None:
    program = (
        "from tests.support.postgres import Postgres\n"
        "from tests.support.redis import RedisServer\n"
        "import os, signal\n"
        "with Postgres() as postgres, RedisServer() as redis:\n"
        "    print(*[p.pid for s in (postgres, redis) for p in s.daemon.family()], flush=True)\n"
        "    redis.freeze()\n"
        "    os.killpg(0, signal.SIGKILL)\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # a test's own is closed to the server's user
        os.chmod(folder, 0o755)
        environment = {**os.environ, "TMPDIR": folder}
        command = [sys.executable, "-c", program]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, process_group=0)
        pids = [int(pid) for pid in ended.stdout.split()]
        assert len(pids) >= 7, ended.stderr
        left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        _, alive = psutil.wait_procs(left, timeout=10)
        assert alive == []
