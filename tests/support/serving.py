"""Serves gRPC services on a free port, built by the kit exactly as in production."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from google.protobuf.descriptor import ServiceDescriptor

from agentmesh.kit.auth import Access, Authenticator, Keyring
from agentmesh.kit.rpc_server import build_server, listen


@asynccontextmanager
async def serving(
    services: Iterable[tuple[ServiceDescriptor, object, Access]],
    *,
    keyring: Keyring,
    anonymous: bool = True,
    grace_s: float = 0.0,
) -> AsyncIterator[str]:
    """Yield the host:port of a running server; on leaving, calls get `grace_s` seconds to end."""
    server = build_server(Authenticator(keyring, anonymous=anonymous), services)
    port = listen(server, "127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace_s)
