"""The composition root of storage."""

import asyncio
import os
from contextlib import AsyncExitStack

from agentmesh.api.storage.v1 import artifact_service_pb2, task_store_service_pb2
from agentmesh.kit import lifecycle, names
from agentmesh.kit.auth import Access, Keyring
from agentmesh.kit.clock import SystemClock
from agentmesh.kit.config import database_path
from agentmesh.kit.errors import WrongState
from agentmesh.kit.folder_lock import FolderLock
from agentmesh.kit.settings import Settings
from agentmesh_storage.adapters.artifact_files import FolderArtifactFiles
from agentmesh_storage.artifact_api import ArtifactApi
from agentmesh_storage.grpc_api import TaskStoreApi
from agentmesh_storage.ports import TaskStore
from agentmesh_storage.rules import Rules
from agentmesh_storage.service import TaskKeeper

_SWEEP_INTERVAL_S = 0.25
_MAX_ARTIFACT_BYTES = 1024**3
_GRACE_S = 1.0  # routers' streams never end by themselves


async def build(settings: Settings, keyring: Keyring, stack: AsyncExitStack) -> lifecycle.Built:
    """Put storage together."""
    clock = SystemClock()
    os.umask(0o077)  # what tasks hold is nobody else's
    lock = FolderLock(settings.data_dir)
    stack.callback(lock.release)
    files = FolderArtifactFiles(settings.data_dir / "artifacts")
    store = open_store(settings)
    keeper = TaskKeeper(store, files, clock, lease_ttl_ms=int(settings.tasks.lease_ttl_s * 1000))
    stack.push_async_callback(keeper.aclose)
    sweeper = asyncio.create_task(keeper.sweep_forever(_SWEEP_INTERVAL_S))
    stack.callback(sweeper.cancel)
    artifacts = ArtifactApi(store, files, clock, max_bytes=_MAX_ARTIFACT_BYTES)
    services = task_store_service_pb2.DESCRIPTOR.services_by_name["TaskStoreService"]
    artifact_service = artifact_service_pb2.DESCRIPTOR.services_by_name["ArtifactService"]
    return lifecycle.Built(
        services=[
            (services, TaskStoreApi(keeper, clock), Access.internal(names.ROUTER)),
            (artifact_service, artifacts, Access.internal(names.ROUTER, names.RUNNER)),
        ],
        checks={"database": store.ping},
        grace_s=_GRACE_S,
    )


def open_store(settings: Settings) -> TaskStore:
    """Open the configured database."""
    if not settings.database.is_embedded:
        raise WrongState("this release keeps tasks in SQLite only: remove database.url", reason="NO_SUCH_BACKEND")
    from agentmesh_storage.adapters.sqlite.store import SqliteTaskStore

    create_tables = settings.database.create_tables
    return SqliteTaskStore(database_path(settings), rules_of(settings), create_tables=create_tables)


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


def serve(settings: Settings) -> None:
    """Run storage as a process."""
    lifecycle.run(names.STORAGE, settings, build)
