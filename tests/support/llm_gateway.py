"""A live gateway before the real llm service, whose provider is a fake one: what HTTP clients of models meet."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import httpx

from agentmesh.kit.auth import Keyring
from agentmesh.kit.settings import Settings
from agentmesh_gateway import app, server
from agentmesh_gateway.settings import Bounds
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, llm_service, provider

MODELS = (
    "ok",
    "slow:50",
    "tools",
    "reasoning",
    "long:2000",
    "cut:700",
    "stall:3",
    "stall:0",
    "error-event",
    "status:500",
    "status:401",
    "rate-limited:7",
    "too-long",
)


@dataclass
class LlmGateway:
    """What a test holds: a client of the gateway, and both ends behind it."""

    client: httpx.AsyncClient
    fake: FakeProvider
    llm: LlmCaller

    @property
    def base_url(self) -> str:
        """Return the gateway's address without a path."""
        return str(self.client.base_url).rstrip("/")


@asynccontextmanager
async def llm_gateway(
    bounds: Bounds | None = None,
    *,
    models: Sequence[str] = MODELS,
    kind: Literal["openai_compatible", "anthropic"] = "openai_compatible",
    completion_models: Sequence[str] = (),
    rerank_models: Sequence[str] = (),
    keyring: Keyring | None = None,
    llm: Mapping[str, Any] = MappingProxyType({}),
    **security: Any,
) -> AsyncIterator[LlmGateway]:
    """Run all three; the gateway proves itself with `keyring`, by default with the one that the service expects.

    The provider speaks the wire of its `kind`; that of Anthropic has no vectors. `llm` are keys of that section of the
    service's settings.
    """
    bounds = bounds or Bounds()
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(FakeProvider())
        vectors = [] if kind == "anthropic" else ["vectors"]
        described = provider(fake.base_url, models, embedding_models=vectors, kind=kind).model_copy(
            update={"completion_models": tuple(completion_models), "rerank_models": tuple(rerank_models)}
        )
        service = await stack.enter_async_context(llm_service(described, **llm))
        listener = server.bind("127.0.0.1", 0)
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = Settings.model_validate(
            {
                "services": {"router": {"address": ["127.0.0.1:1"]}, "llm": {"address": [service.address]}},
                "security": {"authentication": False, **security},
            }
        )
        stop = asyncio.Event()
        gateway = app.build(settings, keyring or service.keyring, stack, bounds)
        done = asyncio.create_task(
            server.serve_until(stop, gateway.app, listener, bounds=bounds, draining=gateway.draining, drain_timeout_s=5)
        )
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=base_url, timeout=20))
        try:
            yield LlmGateway(client, fake, service)
        finally:
            await client.aclose()
            stop.set()
            await done


def data_of(text: str) -> list[str]:
    """Return the data of server-sent events, in order."""
    lines = [line for line in text.split("\n") if line.startswith("data: ")]
    return [line.removeprefix("data: ") for line in lines]
