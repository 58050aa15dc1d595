"""The llm-proxies that there are, and in which order to ask them for a key."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agentmesh.api.llm.v1 import llm_service_pb2_grpc as pb_grpc
from agentmesh.kit import rpc_client, telemetry
from agentmesh.kit.discovery import resolve, resolve_all

log = telemetry.logger(__name__)

_LOOK_UP_S = 5.0
_DOWN_S = 5.0


class Proxy:
    """One llm-proxy. Its channel lives as long as somebody knows or uses it."""

    def __init__(self, address: str, server_name: str, trust: rpc_client.Trust | None) -> None:
        self.address = address
        self.known = True
        self.down_until = 0.0
        self._uses = 0
        self._channel = rpc_client.open_channel(address, trust=trust, server_name=server_name)
        self.stub: Any = pb_grpc.LlmServiceStub(self._channel)

    def weight(self, key: str) -> bytes:
        """Return how much this proxy wants a key: the same in every runner."""
        return hashlib.blake2b(f"{self.address} {key}".encode(), digest_size=8).digest()

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Keep the channel while a call is under way."""
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1
            await self.close_unused()

    async def close_unused(self) -> None:
        """Close the channel once nobody needs it."""
        if not self.known and not self._uses:
            await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


class Proxies:
    """Every proxy that the configured addresses stand for, looked up again and again while they are asked."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        trust: rpc_client.Trust | None,
        look_up: Callable[[str], Awaitable[set[str]]] = resolve,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._configured = addresses
        self._trust = trust
        self._look_up = look_up
        self._now = now
        self._proxies: dict[str, Proxy] = {}
        self._next_look_up = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def ranked(self, key: str) -> list[Proxy]:
        """Return all proxies in the order in which to ask them: by weight, but those last that were just down."""
        now = self._now()
        if self._looking is None and (now >= self._next_look_up or not self._proxies):
            self._next_look_up = now + _LOOK_UP_S
            self._looking = asyncio.create_task(self._refresh())
        if self._looking is not None and not self._proxies:
            await asyncio.shield(self._looking)
        by_weight = sorted(self._proxies.values(), key=lambda proxy: proxy.weight(key), reverse=True)
        return sorted(by_weight, key=lambda proxy: proxy.down_until > now)

    def is_down(self, proxy: Proxy) -> None:
        """Remember for a while that a proxy could not be reached."""
        proxy.down_until = self._now() + _DOWN_S
        log.warning("llm_proxy_unreachable", address=proxy.address)

    async def aclose(self) -> None:
        """Close every channel."""
        if self._looking is not None:
            self._looking.cancel()
        for proxy in self._proxies.values():
            await proxy.close()

    async def _refresh(self) -> None:
        try:
            found = await resolve_all(self._configured, self._look_up)
        except OSError as error:
            log.warning("name_not_resolved", address=str(error))
            return  # a name that fails for a moment must not cost its proxies their connections
        finally:
            self._looking = None
        for target in found.keys() - self._proxies.keys():
            self._proxies[target] = Proxy(target, found[target], self._trust)
        for target in self._proxies.keys() - found.keys():
            proxy = self._proxies.pop(target)
            proxy.known = False
            await proxy.close_unused()
