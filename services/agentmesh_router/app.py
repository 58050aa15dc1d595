"""The composition root of the router."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from agentmesh.api.artifact.v1 import artifact_service_pb2
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.schedule.v1 import schedule_service_pb2
from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2
from agentmesh.kit import lifecycle, names, rpc_client, telemetry
from agentmesh.kit.auth import PUBLIC, Keyring
from agentmesh.kit.clock import SystemClock, duration
from agentmesh.kit.errors import MeshError
from agentmesh.kit.ids import incarnation_of
from agentmesh.kit.redis_checks import redis_checks
from agentmesh.kit.settings import Settings
from agentmesh.kit.tracing import open_tracer
from agentmesh_router.accepting import Acceptor
from agentmesh_router.adapters.peers import StoragePeers
from agentmesh_router.adapters.runner_link import RunnerConnection, RunnerLink
from agentmesh_router.adapters.storage import GrpcStorage
from agentmesh_router.admission import Admission, watch_lag
from agentmesh_router.artifact_api import ArtifactApi
from agentmesh_router.attempts import Attempts
from agentmesh_router.catalog import Catalog
from agentmesh_router.discovery import Discovery
from agentmesh_router.domain import RetryPolicy
from agentmesh_router.drafts import Drafts
from agentmesh_router.grpc_api import TaskApi
from agentmesh_router.hub import Hub
from agentmesh_router.limiter import rate_limits
from agentmesh_router.news import News
from agentmesh_router.replica import RouterLease
from agentmesh_router.runners import Runners
from agentmesh_router.schedule_api import ScheduleApi
from agentmesh_router.scheduler import Scheduler
from agentmesh_router.service import TaskEngine
from agentmesh_router.starting import Starter

log = telemetry.logger(__name__)

_ASK_S = 10.0
_LATE_S = 0.1
_STRAYS_S = 5.0
_LEARN_S = 10.0
_WATCH_DEADLINES_S = 1.0
_RECONNECT_S = 0.2


async def build(settings: Settings, keyring: Keyring, stack: AsyncExitStack) -> lifecycle.Built:
    """Put the router together."""
    clock = SystemClock()
    token = keyring.role_token(names.ROUTER)
    router_id = incarnation_of(names.ROUTER)
    tasks = settings.tasks
    policy = RetryPolicy(tasks.max_attempts, tasks.initial_backoff_s, tasks.max_backoff_s)
    tracer = open_tracer(settings.monitoring, names.ROUTER, stack)
    trust = lifecycle.trust_of(settings)

    hub, scheduler = Hub(), Scheduler()
    catalog = Catalog(validates=settings.security.input_validation)
    peers = StoragePeers(settings.services.storage.addresses, router_id, trust=trust)
    stack.push_async_callback(peers.aclose)
    storage = GrpcStorage(peers, token, router_id, scheduler.ready)
    stack.push_async_callback(storage.aclose)
    lease = RouterLease(storage, router_id, settings.services.router.port, ttl_s=tasks.lease_ttl_s)
    stack.push_async_callback(lease.give_up)
    attempts = Attempts(storage, hub, scheduler, keyring, clock, lease_ttl_s=tasks.lease_ttl_s)
    rates = rate_limits(settings, router_id, stack)
    admission = Admission(
        settings.limits, clock.monotonic, queue_limit=tasks.queue_limit, rates=rates, free_slots=scheduler.free_slots
    )
    storage.on_backlog = admission.backlog
    news = News(storage, hub, attempts)
    starter = Starter(storage, hub, attempts, clock, policy=policy, default_timeout_s=tasks.default_timeout_s)
    drafts = Drafts(catalog, clock, default_timeout_s=tasks.default_timeout_s)
    acceptor = Acceptor(
        storage,
        hub,
        scheduler,
        attempts,
        starter,
        drafts,
        clock,
        admission=admission,
        timeout_s=tasks.accept_timeout_s,
    )
    engine = TaskEngine(storage, hub, scheduler, attempts, catalog, news, drafts, acceptor)
    runners = Runners(
        storage, scheduler, attempts, catalog, engine, starter, news, policy=policy, lease_ttl_s=tasks.lease_ttl_s
    )
    hello = runner_pb.RouterHello(router_id=router_id, lease_ttl=duration(tasks.lease_ttl_s))

    def begin_claimed(link: RunnerLink, claimed: pb.ClaimedTask) -> None:
        admission.claimed(claimed.tenant)
        starter.begin_claimed(link, claimed)

    async def connect(address: str, server_name: str) -> None:
        runner_channel = rpc_client.open_channel(address, trust=trust, server_name=server_name)
        connection = RunnerConnection(
            address,
            runner_channel,
            token,
            hello,
            on_hello=runners.welcome,
            on_message=runners.hear,
            on_lost=runners.lose,
        )
        try:
            await connection.run()
        finally:
            await runner_channel.close()

    for work in (
        _learn_agents(storage, catalog),
        storage_hints(storage),
        lease.keep(),
        news.follow(),
        news.ask_forever(_ASK_S),
        scheduler.claim_forever(storage, begin_claimed, attempts.doubt),
        _after(lease.begun, Discovery(settings.services.runner.addresses, connect).run),
        runners.look_for_strays(_STRAYS_S),
        watch_lag(admission.lagged),
        rates.keep_in_touch(),
        _every(_WATCH_DEADLINES_S, attempts.stop_overdue),
        _every(_LATE_S, acceptor.give_up_late),
    ):
        _in_background(work, stack)
    task_service = task_service_pb2.DESCRIPTOR.services_by_name["TaskService"]
    artifact_service = artifact_service_pb2.DESCRIPTOR.services_by_name["ArtifactService"]
    schedule_service = schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"]
    return lifecycle.Built(
        services=[
            (task_service, TaskApi(engine, scheduler), PUBLIC),
            (artifact_service, ArtifactApi(lambda: peers.artifacts, token), PUBLIC),
            (schedule_service, ScheduleApi(engine, clock), PUBLIC),
        ],
        checks={"storage": storage.ping, "agents": catalog.is_known},
        watched=redis_checks(settings.cache, stack),
        tracer=tracer,
        drain=engine.drain,
    )


async def storage_hints(storage: GrpcStorage) -> None:
    """Listen for ready work until cancelled."""
    while True:
        await storage.listen_for_ready()
        await asyncio.sleep(_RECONNECT_S)


async def _learn_agents(storage: GrpcStorage, catalog: Catalog) -> None:
    while True:
        try:
            catalog.learn(await storage.list_agents())
        except MeshError:
            await asyncio.sleep(_RECONNECT_S)
        else:
            await asyncio.sleep(_LEARN_S)  # another router's runner may announce what is new


async def _after(begun: asyncio.Event, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await begun.wait()
    await work()


async def _every(interval_s: float, action: Any) -> None:
    while True:
        await asyncio.sleep(interval_s)
        action()


def _in_background(work: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    task = asyncio.create_task(work)
    task.add_done_callback(_report)

    async def end() -> None:
        task.cancel()
        await asyncio.wait({task})

    stack.push_async_callback(end)


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("background_work_died", exc_info=task.exception())


def serve(settings: Settings) -> None:
    """Run the router as a process."""
    lifecycle.run(names.ROUTER, settings, build)
