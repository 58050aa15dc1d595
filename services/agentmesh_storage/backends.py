"""Opens the backend that is configured: where tasks are, where bytes are, whose clock counts, how news spread."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from agentmesh.kit.clock import Clock, SystemClock
from agentmesh.kit.config import database_path
from agentmesh.kit.folder_lock import FolderLock
from agentmesh.kit.settings import Settings
from agentmesh.kit.sql_echo import SqlEcho
from agentmesh_storage.news import Wire
from agentmesh_storage.ports import ArtifactFiles, TaskStore
from agentmesh_storage.rules import Rules


@dataclass(frozen=True, slots=True)
class Backend:
    """What storage works on. `wire` is None where only one process can; `commits` may be under way at once."""

    store: TaskStore
    files: ArtifactFiles
    clock: Clock
    wire: Wire | None
    commits: int


async def open_backend(settings: Settings, stack: AsyncExitStack) -> Backend:
    """Open what is configured; raise WrongState if it can't be used."""
    if settings.database.is_embedded:
        return _embedded(settings, stack)
    return await _postgres(settings, stack)


def rules_of(settings: Settings) -> Rules:
    """Read what the operator decided about running tasks."""
    limits = settings.limits
    return Rules(
        weights={tenant.tenant: tenant.weight for tenant in limits.tenants},
        default_weight=limits.default.weight,
        tenants={tenant.tenant: tenant.max_running for tenant in limits.tenants},
        default_running=limits.default.max_running,
        agents={agent.agent: agent.max_running for agent in limits.agents},
        labels={label.label: label.max_running for label in limits.labels},
    )


def _embedded(settings: Settings, stack: AsyncExitStack) -> Backend:
    from agentmesh_storage.adapters.artifact_files import FolderArtifactFiles
    from agentmesh_storage.adapters.sqlite.store import SqliteTaskStore

    lock = FolderLock(settings.data_dir)
    stack.callback(lock.release)
    files = FolderArtifactFiles(settings.data_dir / "artifacts")
    path, create_tables = database_path(settings), settings.database.create_tables
    echo = SqlEcho() if settings.database.echo else None
    store = SqliteTaskStore(path, rules_of(settings), create_tables=create_tables, echo=echo)
    return Backend(store, files, SystemClock(), None, commits=1)


async def _postgres(settings: Settings, stack: AsyncExitStack) -> Backend:
    from agentmesh_storage.adapters.postgres.artifacts import PostgresArtifactFiles
    from agentmesh_storage.adapters.postgres.clock import DatabaseClock
    from agentmesh_storage.adapters.postgres.store import open_store

    store = await open_store(settings.database, rules_of(settings))
    clock = DatabaseClock(store.pool)
    await clock.sample()
    following = asyncio.create_task(clock.follow())
    stack.callback(following.cancel)
    return Backend(store, PostgresArtifactFiles(store.pool), clock, await _wire(settings, stack, store.pool), commits=2)


async def _wire(settings: Settings, stack: AsyncExitStack, pool: object) -> Wire:
    from agentmesh_storage.adapters.postgres.notify import PostgresWire
    from agentmesh_storage.adapters.postgres.pool import Pool

    if settings.cache.backend == "redis" and settings.cache.url is not None:
        from agentmesh_storage.adapters.redis_wire import RedisWire

        redis = RedisWire(settings.cache.url.get_secret_value())
        stack.push_async_callback(redis.aclose)
        return redis
    assert isinstance(pool, Pool)
    assert settings.database.url is not None
    return PostgresWire(pool, settings.database.url.get_secret_value())
