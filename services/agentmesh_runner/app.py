"""The composition root of the runner."""

import asyncio
from contextlib import AsyncExitStack

from agentmesh.api.runner.v1 import runner_service_pb2
from agentmesh.kit import lifecycle, names, rpc_client
from agentmesh.kit.auth import Access, Keyring
from agentmesh.kit.settings import Settings
from agentmesh.kit.tracing import open_tracer
from agentmesh_runner.adapters.artifacts import GrpcArtifacts
from agentmesh_runner.adapters.models import GrpcModels
from agentmesh_runner.adapters.proxies import Proxies
from agentmesh_runner.grpc_api import RunnerApi
from agentmesh_runner.hosts import HostPool
from agentmesh_runner.registry import Registry
from agentmesh_runner.retrying import RetryBudget, RetryingModels
from agentmesh_runner.service import RunnerService

_GRACE_S = 1.0  # routers' streams never end by themselves


async def build(settings: Settings, keyring: Keyring, stack: AsyncExitStack) -> lifecycle.Built:
    """Put the runner together."""
    tracer = open_tracer(settings.monitoring, names.RUNNER, stack)
    token = keyring.role_token(names.RUNNER)
    trust = lifecycle.trust_of(settings)
    own = settings.runner
    channels = [rpc_client.open_channel(address, trust=trust) for address in settings.services.storage.addresses]
    for channel in channels:
        stack.push_async_callback(channel.close)
    models = GrpcModels(Proxies(settings.services.llm.addresses, trust=trust), token)
    stack.push_async_callback(models.aclose)
    asking = RetryingModels(models, RetryBudget(own.llm_retries_per_call))
    hosts = HostPool(own.hosts, own.agents)
    stack.callback(hosts.close)
    service = RunnerService(
        f"{own.name}:{settings.services.runner.port}",
        Registry.load(own.agents),
        asking,
        GrpcArtifacts(channels, token),
        hosts,
        slots=own.slots,
        lease_ttl_s=own.lease_ttl_s,
        heartbeat_s=own.heartbeat_s,
        tracer=tracer,
    )
    keeping_time = asyncio.create_task(service.keep_time())
    stack.callback(keeping_time.cancel)
    descriptor = runner_service_pb2.DESCRIPTOR.services_by_name["RunnerService"]
    return lifecycle.Built(
        services=[(descriptor, RunnerApi(service, keyring), Access.internal(names.ROUTER))],
        tracer=tracer,
        drain=lambda: service.drain(settings.drain_timeout_s),
        grace_s=_GRACE_S,
    )


def serve(settings: Settings) -> None:
    """Run the runner as a process."""
    lifecycle.run(names.RUNNER, settings, build)
