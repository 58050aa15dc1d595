"""The composition root of the llm service."""

import time
from contextlib import AsyncExitStack

from agentmesh.api.llm.v1 import llm_service_pb2
from agentmesh.kit import lifecycle, names
from agentmesh.kit.auth import Access, Keyring
from agentmesh.kit.model_settings import Provider as ProviderSettings
from agentmesh.kit.settings import Cache as CacheSettings
from agentmesh.kit.settings import Settings
from agentmesh_llm.adapters.memory_cache import MemoryCache
from agentmesh_llm.caching import AnswerCache
from agentmesh_llm.catalogue import Alias, Catalogue
from agentmesh_llm.concurrency import CallLimit, LimitBounds
from agentmesh_llm.deployments import Offer
from agentmesh_llm.grpc_api import LlmApi
from agentmesh_llm.ports import CacheStore, Provider
from agentmesh_llm.service import ModelDesk
from agentmesh_llm.settings import Bounds


async def build(settings: Settings, keyring: Keyring, stack: AsyncExitStack) -> lifecycle.Built:
    """Put the llm service together; it is ready at once, since no provider is asked whether it is there."""
    offers = [
        Offer(
            name=provider.name,
            provider=open_provider(provider),
            models=provider.models,
            embedding_models=provider.embedding_models,
            total_timeout_s=provider.pool.total_timeout_s,
            embedding_batch=provider.embedding_batch,
            limit=limit_of(provider),
        )
        for provider in settings.llm.providers
    ]
    cache = AnswerCache(open_cache(settings.cache), ttl_s=settings.cache.ttl)
    aliases = [Alias(alias.name, alias.models, alias.fallbacks) for alias in settings.llm.aliases]
    catalogue = Catalogue(offers, settings.llm.default_model, aliases)
    desk = ModelDesk(catalogue, Bounds.of(settings.llm), cache)
    stack.push_async_callback(desk.aclose)
    service = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"]
    access = Access.internal(names.RUNNER, names.ROUTER, names.GATEWAY)
    return lifecycle.Built(services=[(service, LlmApi(desk), access)])


def limit_of(provider: ProviderSettings) -> CallLimit:
    """Make what bounds a provider's calls at a time; the offline one needs none."""
    pool = provider.pool
    most = pool.max_in_flight or min(pool.per_host, pool.connections)
    bounds = LimitBounds(most, min(pool.min_in_flight, most), pool.max_waiting)
    return CallLimit(provider.name, LimitBounds() if provider.kind == "offline" else bounds)


def open_provider(provider: ProviderSettings) -> Provider:
    """Make the adapter of a configured provider; the libraries of the other kinds are not imported."""
    if provider.kind == "offline":
        from agentmesh_llm.adapters.offline import OfflineProvider

        return OfflineProvider()
    if provider.kind == "anthropic":
        from agentmesh_llm.adapters.anthropic import AnthropicProvider

        return AnthropicProvider(provider)
    from agentmesh_llm.adapters.openai_compatible import OpenAiCompatibleProvider

    return OpenAiCompatibleProvider(provider)


def open_cache(settings: CacheSettings) -> CacheStore:
    """Make the cache of this process, under it the shared one if there is Redis."""
    memory = MemoryCache(settings.max_bytes, time.monotonic)
    if settings.backend != "redis" or settings.url is None:
        return memory
    from agentmesh_llm.adapters.redis_cache import RedisCache

    return RedisCache(settings.url.get_secret_value(), memory, pool_size=settings.pool_size)


def serve(settings: Settings) -> None:
    """Run the llm service as a process."""
    lifecycle.run(names.LLM, settings, build)
