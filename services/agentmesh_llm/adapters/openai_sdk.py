"""Asks servers that speak OpenAI's HTTP through OpenAI's own client; importing this needs the package openai."""

from collections.abc import Callable
from typing import Any

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, AsyncStream

from agentmesh.kit.errors import MeshError
from agentmesh.kit.model_settings import Provider as ProviderSettings
from agentmesh_llm.adapters.sdk_carrier import NO_KEY, SdkCarrier, VendorTypes, http_client_of, silence

_TYPES = VendorTypes(AsyncStream[object], APIStatusError, APIConnectionError)


def open_openai_sdk(
    settings: ProviderSettings, headers: dict[str, str], refusal_of: Callable[[Any], MeshError]
) -> SdkCarrier:
    """Return OpenAI's client for one server; it neither retries nor looks at the environment."""
    silence("openai")
    http_client = http_client_of(settings.pool, headers)
    key = settings.api_key
    client = AsyncOpenAI(
        api_key=NO_KEY if key is None else key.get_secret_value(),
        base_url=settings.base_url,
        timeout=http_client.timeout,
        max_retries=0,
        http_client=http_client,
    )
    return SdkCarrier(client, _TYPES, settings.pool, refusal_of)
