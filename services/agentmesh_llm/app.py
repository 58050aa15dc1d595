"""The composition root of the llm service."""

from contextlib import AsyncExitStack

from agentmesh.api.llm.v1 import llm_service_pb2
from agentmesh.kit import lifecycle, names
from agentmesh.kit.auth import Access, Keyring
from agentmesh.kit.settings import Provider as ProviderSettings
from agentmesh.kit.settings import Settings
from agentmesh_llm.catalogue import Catalogue, Offer
from agentmesh_llm.grpc_api import LlmApi
from agentmesh_llm.ports import Provider
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
        )
        for provider in settings.llm.providers
    ]
    desk = ModelDesk(Catalogue(offers, settings.llm.default_model), Bounds.of(settings.llm))
    stack.push_async_callback(desk.aclose)
    service = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"]
    access = Access.internal(names.RUNNER, names.ROUTER, names.GATEWAY)
    return lifecycle.Built(services=[(service, LlmApi(desk), access)])


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


def serve(settings: Settings) -> None:
    """Run the llm service as a process."""
    lifecycle.run(names.LLM, settings, build)
