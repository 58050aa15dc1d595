"""The composition root of storage."""

import asyncio
import os
from contextlib import AsyncExitStack

from agentmesh.api.storage.v1 import artifact_service_pb2, task_store_service_pb2
from agentmesh.kit import lifecycle, names
from agentmesh.kit.auth import Access, Keyring
from agentmesh.kit.redis_checks import redis_checks
from agentmesh.kit.settings import Settings
from agentmesh.kit.tracing import open_tracer
from agentmesh_storage.artifact_api import ArtifactApi
from agentmesh_storage.backends import open_backend
from agentmesh_storage.commit_spans import CommitSpans
from agentmesh_storage.grpc_api import TaskStoreApi
from agentmesh_storage.news import Bulletin
from agentmesh_storage.ports import Retention
from agentmesh_storage.service import TaskKeeper

_SWEEP_INTERVAL_S = 0.25
_MAX_ARTIFACT_BYTES = 1024**3
_GRACE_S = 1.0  # routers' streams never end by themselves


async def build(settings: Settings, keyring: Keyring, stack: AsyncExitStack) -> lifecycle.Built:
    """Put storage together."""
    os.umask(0o077)  # what tasks hold is nobody else's
    tracer = open_tracer(settings.monitoring, names.STORAGE, stack)
    backend = await open_backend(settings, stack)
    store, files, clock = backend.store, backend.files, backend.clock
    keeper = TaskKeeper(
        store,
        files,
        clock,
        lease_ttl_ms=int(settings.tasks.lease_ttl_s * 1000),
        retention=_retention_of(settings),
        commits=backend.commits,
        spans=CommitSpans(tracer, "sqlite" if settings.database.is_embedded else "postgresql") if tracer else None,
    )
    stack.push_async_callback(keeper.aclose)
    work = [keeper.sweep_forever(_SWEEP_INTERVAL_S), keeper.prune_forever(), keeper.count_forever()]
    if settings.monitoring.alerts:
        work.append(keeper.watch_age_forever())
    if backend.wire is not None:
        bulletin = Bulletin(backend.wire, clock, keeper.hear)
        keeper.on_news = bulletin.tell
        work.append(bulletin.run())
    for one in work:
        stack.callback(asyncio.create_task(one).cancel)
    artifacts = ArtifactApi(store, files, clock, max_bytes=_MAX_ARTIFACT_BYTES)
    services = task_store_service_pb2.DESCRIPTOR.services_by_name["TaskStoreService"]
    artifact_service = artifact_service_pb2.DESCRIPTOR.services_by_name["ArtifactService"]
    return lifecycle.Built(
        services=[
            (services, TaskStoreApi(keeper, clock), Access.internal(names.ROUTER)),
            (artifact_service, artifacts, Access.internal(names.ROUTER, names.RUNNER)),
        ],
        checks={"database": store.ping},
        watched=redis_checks(settings.cache, stack),
        tracer=tracer,
        grace_s=_GRACE_S,
    )


def _retention_of(settings: Settings) -> Retention:
    kept = settings.retention
    return Retention(
        events_ms=int(kept.events_s * 1000),
        tasks_ms=int(kept.tasks_s * 1000),
        request_ids_ms=int(kept.request_ids_s * 1000),
        batch=kept.batch,
    )


def serve(settings: Settings) -> None:
    """Run storage as a process."""
    lifecycle.run(names.STORAGE, settings, build)
