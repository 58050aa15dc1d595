"""Opens a provider's connections: our own, or those of the vendor's library."""

from collections.abc import Callable
from typing import Any

from agentmesh.kit.config import ConfigError
from agentmesh.kit.errors import MeshError
from agentmesh.kit.model_settings import Provider as ProviderSettings
from agentmesh_llm.adapters.answer_feed import Carrier
from agentmesh_llm.adapters.http_provider import ProviderHttp


def open_carrier(
    settings: ProviderSettings, headers: dict[str, str], refusal_of: Callable[[Any], MeshError]
) -> Carrier:
    """Return what carries questions to this provider; raise ConfigError if its library is not installed."""
    assert settings.base_url is not None  # the settings demand it of every kind that has connections
    if settings.transport == "http":
        return ProviderHttp(settings.base_url, headers, settings.pool, refusal_of)
    try:
        # They take seconds to import, and only who asks for them needs them.
        if settings.kind == "anthropic":
            from agentmesh_llm.adapters.anthropic_sdk import open_anthropic_sdk

            return open_anthropic_sdk(settings, headers, refusal_of)
        from agentmesh_llm.adapters.openai_sdk import open_openai_sdk

        return open_openai_sdk(settings, headers, refusal_of)
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"llm.providers: {settings.name} has transport sdk, which needs the package {missing.name}: "
            "pip install 'agentmesh[sdk]', or leave transport out"
        ) from None
