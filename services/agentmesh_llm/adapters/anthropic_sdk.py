"""Asks servers that speak Anthropic's HTTP through its own client; importing this needs the package anthropic."""

from collections.abc import Callable
from typing import Any

from anthropic import APIConnectionError, APIStatusError, AsyncAnthropic, AsyncStream

from agentmesh.kit.errors import MeshError
from agentmesh.kit.model_settings import Provider as ProviderSettings
from agentmesh_llm.adapters.sdk_carrier import NO_KEY, SdkCarrier, VendorTypes, http_client_of, silence

_TYPES = VendorTypes(AsyncStream[object], APIStatusError, APIConnectionError)


def open_anthropic_sdk(
    settings: ProviderSettings, headers: dict[str, str], refusal_of: Callable[[Any], MeshError]
) -> SdkCarrier:
    """Return Anthropic's client for one server; it neither retries, traces nor looks at the environment."""
    silence("anthropic")
    http_client = http_client_of(settings.pool, headers)
    key = settings.api_key
    client = AsyncAnthropic(
        api_key=NO_KEY if key is None else key.get_secret_value(),
        base_url=settings.base_url,
        timeout=http_client.timeout,
        max_retries=0,
        open_telemetry=False,
        http_client=http_client,
    )
    return SdkCarrier(client, _TYPES, settings.pool, refusal_of)
